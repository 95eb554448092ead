"""What axe-core finds in every view, light and dark; and targets that are large enough."""

from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from tests.browser.conftest import Json, Site

SMALLEST = 44  # pixels
RULES = {
    "light": {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]},
    "dark": {"runOnly": ["color-contrast"]},  # the rest is the same
}


@pytest.fixture(scope="module")
def image(site: Site, photos: list[Path]) -> Json:
    metadata = '{"album": 7}'
    first, *_ = [site.upload(path, collection="axe", tags="a tag", metadata=metadata) for path in photos[50:53]]
    return first


async def check(page: Page, scheme: str, where: str) -> None:
    found = (await Axe().run(page, options=RULES[scheme])).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == [], where


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(browser: Browser, site: Site, image: Json, scheme: str) -> None:
    """In a context without the policy, which would not let axe in."""
    context = await browser.new_context(base_url=site.url, bypass_csp=True, color_scheme=scheme)  # type: ignore[arg-type]
    page = await context.new_page()
    await page.goto("/#/?collection=axe")
    await expect(page.locator("#grid .tile.loaded")).to_have_count(3)
    await page.locator("#grid .tile-mark").first.click()
    await page.locator(".gallery").get_by_role("button", name="More filters").click()
    await check(page, scheme, "gallery")
    await page.get_by_role("button", name="Clear").last.click()
    await page.click("#open-uploads")
    await page.set_input_files("#choose-files", Path(__file__))
    await expect(page.locator(".upload")).to_have_attribute("data-phase", "error")
    await page.get_by_text("Collection, tags, copies").click()
    await check(page, scheme, "uploads")
    await page.get_by_label("Close the panel").click()
    await page.goto(f"/#/image/{image['id']}")
    await expect(page.locator("#detail .similar a")).to_have_count(2)
    await check(page, scheme, "detail")
    await page.goto(f"/#/search?more={image['id']}&collection=axe")
    await expect(page.locator("#results .tile.loaded")).to_have_count(2)
    await check(page, scheme, "search")
    await page.goto("/#/duplicates")
    await expect(page.locator(".duplicates .status")).not_to_have_text("Loading…")
    await check(page, scheme, "duplicates")
    await page.keyboard.press("?")
    await check(page, scheme, "keys")
    await context.close()


async def test_everything_that_one_hits_is_large(page: Page, image: Json) -> None:
    await page.set_viewport_size({"width": 360, "height": 740})
    for address in ("/#/?collection=axe", f"/#/image/{image['id']}", "/#/search"):
        await page.goto(address)
        await page.wait_for_load_state("networkidle")
        small = await page.evaluate(
            """(smallest) => [...document.querySelectorAll("button, a, select, summary, input:not([type=file])")]
                .filter((each) => each.checkVisibility() && !each.matches(".skip, .hidden"))
                .map((each) => [each.outerHTML.slice(0, 120), each.getBoundingClientRect()])
                .filter(([, box]) => box.width > 0 && (box.width < smallest || box.height < smallest - 1))
                .map(([html, box]) => `${html} ${box.width} x ${box.height}`)""",
            SMALLEST,
        )
        assert small == [], address
