"""The page of a server with keys."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.browser.conftest import Watch, visiting
from tests.processes import ImgsimServer
from tests.servers import free_port

KEY = "first-key"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImgsimServer]:
    settings = {"IMGSIM_AUTH__KEYS": f"{KEY},second-key", "IMGSIM_EMBEDDER__URL": "colour:"}
    with ImgsimServer(tmp_path_factory.mktemp("closed") / "data", settings, port=free_port()) as server:
        yield server


async def test_a_key_opens_everything_until_one_signs_out(
    browser: Browser, locked: ImgsimServer, photos: list[Path]
) -> None:
    async with visiting(browser, Watch(locked.url, allowed={401})) as page:
        await page.get_by_label("API key").fill("wrong")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("This is no key of this server")
        await page.get_by_label("API key").fill(KEY)
        await page.keyboard.press("Enter")
        await expect(page.locator(".gallery")).to_be_visible()

        (cookie,) = await page.context.cookies()
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert KEY not in cookie["value"]
        await page.click("#open-uploads")
        await page.set_input_files("#choose-files", photos[0])
        await expect(page.locator(".upload[data-phase=done]")).to_have_count(1)  # by the event stream
        await expect(page.locator("#grid .tile.loaded")).to_have_count(1)  # an image

        await page.context.clear_cookies()
        await page.get_by_label("State").first.select_option("done")
        await expect(page.get_by_label("API key")).to_be_visible()
        await page.get_by_label("API key").fill("second-key")
        await page.keyboard.press("Enter")
        await expect(page.locator("#grid .tile")).to_have_count(1)
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("API key")).to_be_visible()
        assert await page.context.cookies() == []


async def test_a_session_that_ended_while_the_server_was_away_asks_for_the_key(
    browser: Browser, locked: ImgsimServer
) -> None:
    async with visiting(browser, Watch(locked.url, allowed={401}, may_break=True)) as page:
        await page.get_by_label("API key").fill(KEY)
        await page.keyboard.press("Enter")
        await expect(page.locator(".gallery")).to_be_visible()
        locked.kill()
        await expect(page.locator("#offline")).to_be_visible()
        await page.context.clear_cookies()
        locked.start()
        await expect(page.get_by_label("API key")).to_be_visible()
