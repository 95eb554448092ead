"""The page over an object store, to whose presigned URLs files and thumbnails redirect."""

from pathlib import Path

from playwright.async_api import Browser, expect

from tests.browser.conftest import Watch, visiting
from tests.processes import ImgsimServer
from tests.servers import SeaweedFS


async def test_pictures_come_from_the_object_store(
    browser: Browser, seaweedfs: SeaweedFS, photos: list[Path], tmp_path: Path
) -> None:
    settings = {"IMGSIM_OBJECTS__URL": seaweedfs.new_bucket(), "IMGSIM_EMBEDDER__URL": "colour:"}
    with ImgsimServer(tmp_path / "data", settings | seaweedfs.environment) as server:
        async with visiting(browser, Watch(server.url, also=seaweedfs.endpoint)) as page:
            await page.set_input_files("#choose-files", photos[0])
            await expect(page.locator("#grid .tile.loaded")).to_have_count(1)
            await page.locator("#grid .tile-link").click()
            picture = page.locator(".detail-picture img")
            assert await picture.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0
            async with page.expect_download() as started:
                await page.get_by_role("link", name="Download original").click()
            download = await started.value
            assert download.suggested_filename == photos[0].name
            assert (await download.path()).read_bytes() == photos[0].read_bytes()
            policy = (await page.request.get("/")).headers["content-security-policy"]
            assert f"img-src 'self' blob: data: {seaweedfs.endpoint};" in policy


async def test_a_bucket_is_imported_by_its_address(
    browser: Browser, seaweedfs: SeaweedFS, photos: list[Path], tmp_path: Path
) -> None:
    bucket = seaweedfs.new_bucket().removeprefix("s3://").partition("?")[0].partition("/")[0]
    s3 = seaweedfs.client()
    for photo in photos[:3]:
        s3.upload_file(str(photo), bucket, f"album/{photo.name}")
    place = f"s3://{bucket}/album"
    settings = {"IMGSIM_IMPORTS__S3": f"{place}?endpoint={seaweedfs.endpoint}", "IMGSIM_EMBEDDER__URL": "colour:"}
    with ImgsimServer(tmp_path / "data", settings | seaweedfs.environment) as server:
        async with visiting(browser, Watch(server.url, allowed={403})) as page:
            await page.click("#open-uploads")
            await page.get_by_text("Collection, tags, copies").click()
            address = page.get_by_label("Import from a bucket")
            await address.fill("https://example.org/photos")
            await page.get_by_role("button", name="Import", exact=True).click()
            await expect(page.locator("#toasts")).to_contain_text("s3://bucket/prefix")
            await address.fill("s3://somewhere-else/album")
            await page.keyboard.press("Enter")
            await expect(page.locator(".upload[data-phase=error]")).to_contain_text("imports.s3")
            await address.fill(place)
            await page.keyboard.press("Enter")
            await expect(page.locator(".upload[data-phase=done]")).to_contain_text("3 indexed")
            await expect(page.locator("#grid .tile")).to_have_count(3)
