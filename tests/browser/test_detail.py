"""The detail view: what is known of an image, what can be changed, and what looks like it."""

import json
from pathlib import Path

from playwright.async_api import Page, expect

from tests.browser.conftest import Site, open_collection


async def test_everything_that_is_known_is_shown(page: Page, site: Site, photos: list[Path]) -> None:
    image = site.upload(photos[40], collection="detail", tags=["first"], metadata='{"album": 7, "place": "Oslo"}')
    await page.goto(f"/#/image/{image['id']}")
    detail = page.locator("#detail")
    picture = detail.locator(".detail-picture img")
    await expect(picture).to_be_visible()
    assert await picture.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0
    for text in (image["sha256"], image["id"], f"{image['width']} × {image['height']}", image["embedding"]["model"]):
        await expect(detail).to_contain_text(text)
    await expect(detail.locator(".metadata")).to_have_text("album7placeOslo")
    await expect(detail.locator(".chip")).to_have_text("first")
    states = detail.locator(".states li")
    await expect(states).to_have_count(len(image["states"]))
    await expect(states.last).to_contain_text("Done")
    assert await states.locator("time").evaluate_all("(times) => times.map((time) => time.dateTime)") == sorted(
        image["states"].values()
    )
    gate = detail.locator("details", has_text="gate")
    await gate.locator("summary").click()
    assert json.loads(await gate.locator("pre").inner_text()) == image["features"]["gate"]
    await expect(detail.get_by_role("link", name="Download original")).to_have_attribute(
        "href", f"/images/{image['id']}/file?download=true"
    )
    async with page.expect_download() as started:
        await detail.get_by_role("link", name="Download original").click()
    download = await started.value
    assert download.suggested_filename == image["filename"]
    assert Path(await download.path()).read_bytes() == photos[40].read_bytes()  # noqa: ASYNC240


async def test_tags_and_metadata_are_edited(page: Page, site: Site, photos: list[Path]) -> None:
    image = site.upload(photos[41], collection="edit", tags=["old"])
    await page.goto(f"/#/image/{image['id']}")
    detail = page.locator("#detail")
    tag = detail.get_by_label("Add to tags")
    await tag.fill("new, with a comma")
    await tag.press("Enter")
    await expect(detail.locator(".chip")).to_have_text(["old", "new, with a comma"])
    await detail.get_by_label("Remove old").click()
    await expect(detail.locator(".chip")).to_have_text(["new, with a comma"])
    await detail.get_by_text("Edit", exact=True).click()
    text = detail.get_by_label("Metadata, a JSON object")
    await text.fill("{album")
    await detail.get_by_role("button", name="Save").click()
    await expect(detail.get_by_text("This is not JSON")).to_be_visible()
    await text.fill('{"album": "summer"}')
    await detail.get_by_role("button", name="Save").click()
    await expect(detail.locator(".metadata")).to_have_text("albumsummer")
    changed = site.client.get(f"/images/{image['id']}").json()
    assert (changed["tags"], changed["metadata"]) == (["new, with a comma"], {"album": "summer"})


async def test_similar_images_have_scores_and_lead_on(page: Page, site: Site, photos: list[Path]) -> None:
    images = [site.upload(path, collection="similar") for path in photos[42:47]]
    wanted = site.client.get(f"/images/{images[0]['id']}/similar", params={"limit": 12}).json()["results"]
    await page.goto(f"/#/image/{images[0]['id']}")
    found = page.locator("#detail .similar a")
    await expect(found).to_have_count(4)
    assert await found.evaluate_all("(links) => links.map((link) => Number(link.dataset.score))") == [
        hit["score"] for hit in wanted
    ]
    await expect(found.first).to_contain_text(f"{max(0, round(wanted[0]['score'] * 100))} %")
    await found.first.click()
    await expect(page.locator("#detail-title .name")).to_have_text(wanted[0]["image"]["filename"])
    await page.go_back()
    await expect(page.locator("#detail-title .name")).to_have_text(images[0]["filename"])


async def test_an_image_in_error_is_tried_again(page: Page, site: Site, photos: list[Path]) -> None:
    (site.faults / "faulty").touch()
    image = site.upload(photos[47], collection="retry", filename="faulty-2.jpg")
    assert image["state"] == "error"
    await open_collection(page, "retry")
    await expect(page.locator("#grid .tile-state")).to_have_text("Error")
    await page.locator("#grid .tile-link").click()
    detail = page.locator("#detail")
    await expect(detail.get_by_role("alert")).to_contain_text("Failed in the stage gate, after one attempt.")
    (site.faults / "faulty").unlink()
    await detail.get_by_role("button", name="Try again").click()
    await expect(detail.locator("h2 .badge")).to_have_text("Done")
    await expect(detail.locator(".states")).to_contain_text("Error")
    await page.keyboard.press("Escape")
    await expect(page.locator("#grid .tile-state")).to_have_text("")


async def test_delete_asks_first_and_leads_back(page: Page, site: Site, photos: list[Path]) -> None:
    images = [site.upload(path, collection="delete") for path in photos[48:50]]
    await open_collection(page, "delete")
    await page.locator("#grid .tile-link").first.click()
    delete = page.locator('#detail [data-action="delete"]')
    await delete.click()
    await page.locator("#confirm").get_by_role("button", name="Cancel").click()
    await expect(delete).to_be_focused()
    await delete.click()
    await page.locator("#confirm").get_by_role("button", name="Delete").click()
    await expect(page.locator("#detail")).to_be_hidden()
    await expect(page.locator("#grid .tile")).to_have_count(1)
    await expect(page.locator("#grid .tile-link")).to_be_focused()
    assert [image["id"] for image in site.listed(collection="delete")] == [images[0]["id"]]
