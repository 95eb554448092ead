"""The search: by an image, an address, examples, and words where the model can."""

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.conftest import Json, Site, Watch, visiting
from tests.browser.test_upload import files
from tests.processes import ImgsimServer, wait_until_at_rest
from tests.scripted import ScriptedServer, answer


@pytest.fixture(scope="module")
def stock(site: Site, photos: list[Path]) -> dict[str, Json]:
    """By filename: four photographs of each of the six classes."""
    chosen = [path for number, path in enumerate(photos) if path.parent.parent.name == "classes" and number % 3 == 0]
    return {path.name: site.upload(path, collection="search", tags=path.parent.name) for path in chosen}


async def results(page: Page) -> list[str]:
    await expect(page.locator(".search > .status")).to_contain_text("best first")
    found: list[str] = await page.locator("#results .tile").evaluate_all("(all) => all.map((one) => one.dataset.id)")
    return found


async def asked(page: Page, act: Any) -> list[str]:
    """The ids that the server answered to the search that `act` begins."""
    async with page.expect_response("**/search") as response:
        await act()
    answer = await (await response.value).json()
    return [hit["image"]["id"] for hit in answer["results"]]


async def test_by_a_chosen_image_that_is_not_stored(
    page: Page, site: Site, stock: dict[str, Json], photos: list[Path]
) -> None:
    count = len(site.listed())
    query = next(path for path in photos if path.parent.name == "banana" and path.name not in stock)
    await page.goto("/#/search?collection=search")
    ids = await asked(page, lambda: page.set_input_files("#query-file", query))
    assert (await results(page))[:3] == ids[:3]
    assert [stock_of(stock, each)["tags"] for each in ids[:3]] == [["banana"]] * 3
    await expect(page.locator("#results .tile-caption b").first).to_contain_text("%")
    await expect(page.locator(".search > .status")).to_contain_text("efficientnet-lite0")
    assert len(site.listed()) == count


def stock_of(stock: dict[str, Json], image_id: str) -> Json:
    return next(image for image in stock.values() if image["id"] == image_id)


async def test_by_a_dropped_or_pasted_image(page: Page, stock: dict[str, Json], photos: list[Path]) -> None:
    path = next(path for path in photos if path.name in stock)
    transfer = await files(page, path)
    await page.dispatch_event("main", "dragenter", {"dataTransfer": transfer})
    ids = await asked(page, lambda: page.dispatch_event("#drop [data-drop=search]", "drop", {"dataTransfer": transfer}))
    assert ids[0] == stock[path.name]["id"]
    await expect(page.locator(".query img")).to_be_visible()
    await page.goto("/#/search")
    await expect(page.locator(".query img")).to_have_count(0)  # else the page would still be leaving that search
    paste = (
        "(clipboardData) => document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true }))"
    )
    assert await asked(page, lambda: page.evaluate(paste, transfer)) == ids


async def test_by_an_address(page: Page, stock: dict[str, Json], photos: list[Path]) -> None:
    path = next(path for path in photos if path.name in stock)
    with ScriptedServer(lambda request: [answer(path.read_bytes(), content_type="image/jpeg")]) as other:
        await page.keyboard.press("/")
        await page.keyboard.type(f"{other.url}/photo.jpg")
        ids = await asked(page, lambda: page.keyboard.press("Enter"))
        assert ids[0] == stock[path.name]["id"]
        assert (await results(page))[0] == ids[0]
        await expect(page.locator(".search > .status")).to_contain_text("results, best first")  # each page fetches it


async def test_an_address_that_gives_no_image_says_so(page: Page, watch: Watch) -> None:
    watch.allowed = {415, 422}
    with ScriptedServer(lambda request: [answer(b"<html>", content_type="text/html")]) as other:
        await page.goto(f"/#/search?url={other.url}/page")
        await expect(page.locator(".search > .status.bad")).not_to_be_empty()


async def test_words_are_refused_with_the_models_that_know_them(page: Page, watch: Watch) -> None:
    watch.allowed = {422}
    await page.goto("/#/search")
    await expect(page.locator("#model-note")).to_contain_text("does not understand words")
    await expect(page.locator("#model-note")).to_contain_text("ViT-B-32/laion2b_s34b_b79k")
    await page.get_by_label("Address of an image, or words").fill("a yellow fruit")
    await page.get_by_role("button", name="Search", exact=True).click()
    await expect(page.locator(".search > .status.bad")).to_contain_text("text")


async def test_words_find_pictures_where_the_model_knows_them(
    browser: Browser, open_clip_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    settings = {"IMGSIM_EMBEDDER__MODEL": f"local-dir:{open_clip_folder}"}
    with ImgsimServer(tmp_path / "data", settings) as server, server.client() as client:
        for photo in photos[:3]:
            answer = client.post("/images/upload", files={"file": (photo.name, photo.read_bytes())})
            wait_until_at_rest(client, answer.json()["id"])
        async with visiting(browser, Watch(server.url)) as page:
            await page.get_by_role("searchbox", name="Search").fill("a yellow fruit")
            ids = await asked(page, lambda: page.keyboard.press("Enter"))
            assert await results(page) == ids
            assert len(ids) == 3
            await expect(page.get_by_label("Address of an image, or words")).to_have_value("a yellow fruit")


async def test_more_like_this_less_like_that(page: Page, stock: dict[str, Json]) -> None:
    banana = next(image for image in stock.values() if image["tags"] == ["banana"])
    shoe = next(image for image in stock.values() if image["tags"] == ["shoes"])
    await page.goto(f"/#/image/{banana['id']}")
    ids = await asked(page, lambda: page.get_by_role("button", name="More like this").click())
    await expect(page.locator("#detail")).to_be_hidden()
    assert (await results(page))[: len(ids)][:5] == ids[:5]
    assert banana["id"] not in ids

    await page.goto(f"/#/search?more={banana['id']}&collection=search")
    await results(page)
    mark = page.locator(f'#results .tile[data-id="{shoe["id"]}"] .tile-mark')
    await mark.scroll_into_view_if_needed()
    await mark.click()
    fewer = await asked(page, lambda: page.get_by_role("button", name="Less like these").click())
    assert shoe["id"] not in fewer
    assert [stock_of(stock, each)["tags"] for each in fewer[:3]] == [["banana"]] * 3
    await expect(page.locator(".examples.more .example")).to_have_count(1)
    await expect(page.locator(".examples.less .example")).to_have_count(1)
    again = await asked(page, lambda: page.locator(".examples.less").get_by_label("Take this example out").click())
    assert shoe["id"] in again


async def test_filters_and_least_score_narrow_the_results(page: Page, stock: dict[str, Json]) -> None:
    banana = next(image for image in stock.values() if image["tags"] == ["banana"])
    await page.goto(f"/#/search?more={banana['id']}&collection=search")
    await results(page)
    tag = page.locator(".search").get_by_label("Add to tags, all of")
    await tag.fill("daisy")
    ids = await asked(page, lambda: tag.press("Enter"))
    assert {stock_of(stock, each)["tags"][0] for each in ids} == {"daisy"}
    await page.locator(".search").get_by_role("button", name="More filters").click()
    await page.get_by_label("Least score").fill("0.99")
    assert await asked(page, lambda: page.get_by_label("Least score").press("Tab")) == []
    await expect(page.locator(".search > .status")).to_contain_text("Nothing found")
