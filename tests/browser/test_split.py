"""The page over an object store, to whose presigned URLs files and thumbnails redirect."""

from pathlib import Path

from playwright.async_api import Browser, expect

from tests.browser.conftest import Watch
from tests.processes import ImgsimServer
from tests.servers import SeaweedFS


async def test_pictures_come_from_the_object_store(
    browser: Browser, seaweedfs: SeaweedFS, photos: list[Path], tmp_path: Path
) -> None:
    settings = {"IMGSIM_OBJECTS__URL": seaweedfs.new_bucket(), "IMGSIM_EMBEDDER__URL": "colour:"}
    with ImgsimServer(tmp_path / "data", settings | seaweedfs.environment) as server:
        watch = Watch(server.url, also=seaweedfs.endpoint)
        context = await browser.new_context(base_url=server.url)
        page = await context.new_page()
        watch.follow(page)
        await page.goto("/")
        await page.set_input_files("#choose-files", photos[0])
        await expect(page.locator("#grid .tile.loaded")).to_have_count(1)
        await page.locator("#grid .tile-link").click()
        picture = page.locator(".detail-picture img")
        assert await picture.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0
        policy = (await page.request.get("/")).headers["content-security-policy"]
        assert f"img-src 'self' blob: data: {seaweedfs.endpoint};" in policy
        await context.close()
    assert watch.seen == []
