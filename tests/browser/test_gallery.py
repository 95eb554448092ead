"""The gallery: filters, arrivals, what goes, the keyboard, and deep links."""

import re
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, Page, expect

from tests.browser.conftest import Json, Site, Watch, open_collection

UNKNOWN = "01900000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def stock(site: Site, photos: list[Path]) -> list[Json]:
    """Newest first, as the gallery shows them."""
    tags = ["red", "blue"]
    images = [
        site.upload(path, collection="stock", tags=[tags[number % 2], "all"])
        for number, path in enumerate(photos[20:32])
    ]
    return images[::-1]


def names(images: list[Json]) -> list[str]:
    return [image["filename"] for image in images]


async def shown(page: Page) -> list[str]:
    found: list[str] = await page.locator("#grid img").evaluate_all("(images) => images.map((image) => image.alt)")
    return found


async def test_filters_by_tag_collection_and_state_are_in_the_address(
    page: Page, site: Site, stock: list[Json]
) -> None:
    await open_collection(page, "stock")
    await expect(page.locator("#grid .tile")).to_have_count(12)
    assert await shown(page) == names(stock)
    tag = page.locator(".gallery").get_by_label("Add to tags, all of")
    await tag.fill("red")
    await tag.press("Enter")
    await expect(page.locator("#grid .tile")).to_have_count(6)
    assert "tag=red" in page.url
    await page.locator(".gallery").get_by_label("State").select_option("error")
    await expect(page.get_by_role("heading", name="Nothing matches")).to_be_visible()
    await page.locator(".gallery").get_by_label("State").select_option("done")
    await expect(page.locator("#grid .tile")).to_have_count(6)

    await page.reload()
    await expect(page.locator("#grid .tile")).to_have_count(6)
    await expect(page.locator(".gallery .chip")).to_have_text("red")
    await page.locator(".gallery").get_by_role("button", name="More filters").click()
    await page.locator(".gallery").get_by_label("Added from").fill("2100-01-01")
    await page.locator(".gallery").get_by_label("Added from").blur()
    await expect(page.locator(".gallery .empty")).to_be_visible()
    await page.get_by_role("button", name="Clear").click()
    await expect(page.locator("#grid .tile").nth(11)).to_be_attached()
    await expect(page.locator(".gallery .chip")).to_have_count(0)


async def test_what_arrives_shows_and_what_is_deleted_goes(
    page: Page, site: Site, stock: list[Json], photos: list[Path]
) -> None:
    await open_collection(page, "stock")
    await expect(page.locator("#grid .tile")).to_have_count(12)
    image = site.upload(photos[33], collection="stock", filename="arrival.jpg")
    await expect(page.locator("#grid img").first).to_have_attribute("alt", "arrival.jpg")
    await expect(page.locator("#grid .tile").first).to_have_class(re.compile("loaded"))
    site.client.delete(f"/images/{image['id']}").raise_for_status()
    await expect(page.locator("#grid .tile")).to_have_count(12)
    assert await shown(page) == names(stock)


async def test_an_arrival_moves_nothing_while_one_looks_further_down(
    page: Page, site: Site, stock: list[Json], photos: list[Path]
) -> None:
    await page.set_viewport_size({"width": 400, "height": 400})
    await open_collection(page, "stock")
    await expect(page.locator("#grid .tile")).to_have_count(12)
    await page.evaluate("() => window.scrollTo(0, document.documentElement.scrollHeight)")
    last = page.locator("#grid .tile").last
    before = await last.bounding_box()
    image = site.upload(photos[34], collection="stock", filename="later.jpg")
    await expect(page.get_by_role("button", name="1 new")).to_be_visible()
    assert await last.bounding_box() == before
    await page.get_by_role("button", name="1 new").click()
    await expect(page.locator("#grid img").first).to_have_attribute("alt", "later.jpg")
    site.client.delete(f"/images/{image['id']}").raise_for_status()
    await expect(page.locator("#grid .tile")).to_have_count(12)


async def test_marked_images_are_deleted_together(page: Page, site: Site, photos: list[Path]) -> None:
    for number in (35, 36, 37):
        site.upload(photos[number], collection="marked")
    await open_collection(page, "marked")
    await expect(page.locator("#grid .tile")).to_have_count(3)
    for number in range(2):
        await page.locator("#grid .tile-mark").nth(number).click()
    await expect(page.locator("#marks")).to_contain_text("2 marked")
    await page.locator("#marks").get_by_role("button", name="Delete").click()
    await page.locator("#confirm").get_by_role("button", name="Delete").click()
    await expect(page.locator("#grid .tile")).to_have_count(1)
    await expect(page.locator("#marks")).to_be_hidden()
    assert names(site.listed(collection="marked")) == [photos[35].name]


async def test_all_of_it_by_keyboard(page: Page, stock: list[Json]) -> None:
    await open_collection(page, "stock")
    await expect(page.locator("#grid .tile")).to_have_count(12)
    focused = page.locator(":focus")
    await page.keyboard.press("Tab")
    await expect(focused).to_have_text("Skip to the content")
    first = page.locator("#grid .tile-link").first
    for _ in range(30):
        await page.keyboard.press("Tab")
        if await first.evaluate("(link) => link === document.activeElement"):
            break
    await expect(first).to_be_focused()
    outline = await first.evaluate("(link) => getComputedStyle(link).outlineStyle")
    assert outline == "solid"

    columns = int(await page.locator("#grid").get_attribute("aria-colcount") or 0)
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("ArrowDown")
    there = stock[columns + 1]
    await expect(focused.locator("img")).to_have_attribute("alt", there["filename"])
    await page.keyboard.press("x")
    await expect(page.locator("#marks")).to_contain_text("1 marked")
    await page.keyboard.press("Enter")
    await expect(page.locator("#detail-title .name")).to_have_text(there["filename"])
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#detail-title .name")).to_have_text(stock[columns + 2]["filename"])
    await page.keyboard.press("ArrowLeft")
    await expect(page.locator("#detail-title .name")).to_have_text(there["filename"])
    await page.keyboard.press("Escape")
    await expect(page.locator("#detail")).to_be_hidden()
    await expect(focused.locator("img")).to_have_attribute("alt", there["filename"])
    await page.keyboard.press("Escape")
    await expect(page.locator("#marks")).to_be_hidden()
    await page.keyboard.press("End")
    await page.keyboard.press("Control+Home")
    await expect(first).to_be_focused()
    await page.keyboard.press("/")
    await expect(page.locator("#quick")).to_be_focused()


async def test_an_address_leads_to_its_image_and_closing_to_the_gallery(
    context: BrowserContext, watch: Watch, stock: list[Json]
) -> None:
    image = stock[3]
    page = await context.new_page()
    watch.follow(page)
    await page.goto(f"/#/image/{image['id']}")
    await expect(page.locator("#detail-title .name")).to_have_text(image["filename"])
    await page.get_by_label("Close", exact=True).click()
    await expect(page.locator("#detail")).to_be_hidden()
    assert page.url.endswith("/#/")

    await page.locator("#grid .tile-link").first.click()
    await expect(page.locator("#detail")).to_be_visible()
    await page.go_back()
    await expect(page.locator("#detail")).to_be_hidden()
    await page.go_forward()
    await expect(page.locator("#detail")).to_be_visible()
    await page.close()
    assert watch.seen == []


async def test_the_address_of_an_image_that_is_gone_says_so(page: Page, watch: Watch) -> None:
    watch.allowed = {404}
    await page.goto(f"/#/image/{UNKNOWN}")
    await expect(page.locator("#detail-title")).to_have_text("This image is gone")
    await page.keyboard.press("Escape")
    await expect(page.locator("#detail")).to_be_hidden()


async def test_on_a_phone_nothing_is_wider_than_the_screen(page: Page, stock: list[Json]) -> None:
    await page.set_viewport_size({"width": 360, "height": 740})
    for address in ("/#/", "/#/search", f"/#/image/{stock[0]['id']}"):
        await page.goto(address)
        await page.wait_for_load_state("networkidle")
        width = await page.evaluate("() => document.documentElement.scrollWidth")
        assert width <= 360, address
    detail = await page.locator("#detail").evaluate("(dialog) => [dialog.scrollWidth, dialog.clientWidth]")
    assert detail[0] <= detail[1]
