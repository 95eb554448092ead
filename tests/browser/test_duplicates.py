"""The page of duplicates: groups side by side, of which one stays, or which are none."""

import io
from pathlib import Path

import pytest
from PIL import Image
from playwright.async_api import Locator, Page, expect

from tests.browser.conftest import Json, Site, Watch
from tests.browser.test_accessibility import small_targets


async def group_of(page: Page, image: Json) -> Locator:
    """The only group of its collection."""
    await page.goto(f"/#/duplicates?collection={image['collection']}")
    await expect(page.locator(".group")).to_have_count(1)
    return page.locator(".group")


@pytest.fixture
def pair(site: Site, photos: list[Path], request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Json, Json]:
    """A photograph, and a smaller copy of it, in a collection of the test's own."""
    path = next(path for path in photos if path.parent.name == "neardup")
    (smaller := Image.open(path)).thumbnail((300, 300))
    smaller.save(tmp_path / "smaller.jpg", quality=80)
    collection = request.node.name[:60]
    return site.upload(path, collection=collection), site.upload(tmp_path / "smaller.jpg", collection=collection)


async def test_of_two_copies_the_larger_is_proposed_and_the_other_deleted(
    page: Page, site: Site, pair: tuple[Json, Json]
) -> None:
    large, small = pair
    group = await group_of(page, large)
    await expect(group.locator("h2")).to_have_text("Copies: 2 images")
    for image in pair:
        member = group.locator(f'.member[data-id="{image["id"]}"]')
        await expect(member).to_contain_text(f"{image['width']} × {image['height']}")
        await expect(member.locator("img")).to_be_visible()
    await expect(group.get_by_role("radio", checked=True)).to_have_value(large["id"])
    await group.get_by_role("button", name="Keep the chosen one, delete the other").click()
    await expect(page.locator("#confirm")).to_contain_text(f"{large['filename']} is kept")
    await page.locator("#confirm").get_by_role("button", name="Delete").click()
    await expect(group).to_have_count(0)
    assert [image["id"] for image in site.listed(collection=large["collection"])] == [large["id"]]
    assert site.client.get(f"/images/{small['id']}").status_code == 404


async def test_what_is_no_duplicate_does_not_come_again(page: Page, site: Site, pair: tuple[Json, Json]) -> None:
    group = await group_of(page, pair[0])
    await group.get_by_role("button", name="Not duplicates").click()
    await expect(group).to_have_count(0)
    await page.reload()
    await expect(page.locator(".duplicates .status")).not_to_have_text("Loading…")
    await expect(group).to_have_count(0)
    assert len(site.listed(collection=pair[0]["collection"])) == 2


async def test_of_many_it_is_asked_whether_really_none_is_a_duplicate(
    page: Page, site: Site, pair: tuple[Json, Json], tmp_path: Path
) -> None:
    with Image.open(tmp_path / "smaller.jpg") as smaller:
        smaller.save(tmp_path / "third.jpg", quality=50)
    site.upload(tmp_path / "third.jpg", collection=pair[0]["collection"])
    group = await group_of(page, pair[0])
    await expect(group.locator("h2")).to_have_text("Copies: 3 images")
    await group.get_by_role("button", name="Not duplicates").click()
    await page.locator("#confirm").get_by_role("button", name="Cancel").click()
    await expect(group).to_have_count(1)
    await group.get_by_role("button", name="Not duplicates").click()
    await page.locator("#confirm").get_by_role("button", name="None are").click()
    await expect(group).to_have_count(0)


async def test_what_has_joined_a_group_since_it_was_shown_is_not_dismissed_with_it(
    page: Page, site: Site, pair: tuple[Json, Json], tmp_path: Path
) -> None:
    group = await group_of(page, pair[0])
    with Image.open(tmp_path / "smaller.jpg") as smaller:
        smaller.save(tmp_path / "third.jpg", quality=50)
    third = site.upload(tmp_path / "third.jpg", collection=pair[0]["collection"])
    await group.get_by_role("button", name="Not duplicates").click()
    await expect(group).to_have_count(0)
    await page.reload()
    await expect(group.locator(".member")).to_have_count(2)
    await expect(group.locator(f'.member[data-id="{third["id"]}"]')).to_be_visible()


async def test_a_member_that_is_deleted_elsewhere_goes(
    page: Page, watch: Watch, site: Site, pair: tuple[Json, Json]
) -> None:
    watch.allowed = {404}  # its thumbnail, which the page may just be asking for
    group = await group_of(page, pair[0])
    site.client.delete(f"/images/{pair[1]['id']}").raise_for_status()
    await expect(group).to_have_count(0)


async def test_a_copy_that_is_to_be_left_out_is_told_in_its_row(
    page: Page, site: Site, pair: tuple[Json, Json], tmp_path: Path
) -> None:
    await page.click("#open-uploads")
    await page.get_by_text("Collection, tags, copies").click()
    await page.locator("#uploads").get_by_label("Collection").fill(pair[0]["collection"])
    await page.get_by_label("Copies of what is there").select_option("reject")
    smaller = Image.open(tmp_path / "smaller.jpg")
    smaller.save(out := io.BytesIO(), "PNG")
    copy = {"name": "copy.png", "mimeType": "image/png", "buffer": out.getvalue()}
    await page.set_input_files("#choose-files", copy)  # type: ignore[arg-type]
    await expect(page.locator(".upload")).to_have_attribute("data-phase", "there")
    await expect(page.locator(".upload .row-state")).to_contain_text("Left out. It is a copy of the image")


async def test_groups_of_all_collections_fit_a_phone(page: Page, pair: tuple[Json, Json]) -> None:
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.goto("/#/duplicates")
    await expect(page.locator(".group").first).to_be_visible()
    assert await page.evaluate("() => document.documentElement.scrollWidth") <= 360
    assert await small_targets(page) == []
    await page.locator(".duplicates").get_by_label("Collection").select_option(pair[0]["collection"])
    await expect(page.locator(".group")).to_have_count(1)
