"""The README's pictures of the page, taken anew: ``python -m tests.browser.screenshots``."""

import asyncio
import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.browser.chromium import FLAGS, MISSING, chromium
from tests.conftest import DATA
from tests.processes import ImgsimServer, wait_until_at_rest

FOLDER = Path(__file__).parent / "screenshots"
LARGEST = 80_000  # bytes
_WIDTH = 1000


async def _save(page: Page, name: str) -> None:
    """As WebP, as good as fits."""
    picture = Image.open(io.BytesIO(await page.screenshot(animations="disabled"))).convert("RGB")
    if picture.width > _WIDTH:
        picture = picture.resize((_WIDTH, round(picture.height * _WIDTH / picture.width)), Image.Resampling.LANCZOS)
    for quality in range(80, 10, -5):
        picture.save(out := io.BytesIO(), "WEBP", quality=quality, method=6)
        if out.tell() < LARGEST:
            (FOLDER / name).write_bytes(out.getvalue())
            return
    raise RuntimeError(f"{name} does not fit into {LARGEST} bytes.")


async def _pictures_shown(page: Page, within: str) -> None:
    await page.wait_for_load_state("networkidle")
    await page.locator(f"{within} img").evaluate_all("(images) => Promise.all(images.map((image) => image.decode()))")


def _fill(server: ImgsimServer) -> str:
    """Photographs of several kinds; the id of a rose."""
    paths = sorted((DATA / "classes").rglob("*.jpg")) + sorted((DATA / "neardup").glob("*.jpg"))
    order = sorted(paths, key=lambda path: hash_of(path.name))
    chosen = ""
    with server.client() as client:
        for path in order:
            file = {"file": (path.name, path.read_bytes())}
            data = {"tags": path.parent.name, "metadata": '{"album": "Summer", "place": "Gothenburg"}'}
            image = client.post("/images/upload", files=file, data=data).raise_for_status().json()
            wait_until_at_rest(client, image["id"])
            if path.parent.name == "roses":
                chosen = image["id"]
    return chosen


def hash_of(text: str) -> int:
    """The same mixture each time."""
    return sum(ord(letter) * 31**place for place, letter in enumerate(text)) % 9973


async def _take(browser: Browser, server: ImgsimServer, chosen: str) -> None:
    page = await browser.new_page(base_url=server.url, viewport={"width": 1280, "height": 800})
    await page.goto("/")
    await page.click("#open-uploads")
    await page.set_input_files("#choose-files", sorted((DATA / "more").rglob("*.jpg"))[:40:4])
    await expect(page.locator(".upload[data-phase=done]")).to_have_count(10)
    await _pictures_shown(page, "#grid .tile.loaded")
    await _save(page, "gallery.webp")
    await page.get_by_label("Close the panel").click()
    await page.emulate_media(color_scheme="dark")
    await page.goto(f"/#/image/{chosen}")
    await expect(page.locator("#detail .similar a").nth(11)).to_be_visible()
    await _pictures_shown(page, "#detail")
    await page.locator(".detail-side").evaluate("(side) => { side.scrollTop = 0 }")
    await _save(page, "detail.webp")
    await page.emulate_media(color_scheme="light")
    more, less = await asyncio.to_thread(_examples, server)
    await page.goto(f"/#/search?more={more}&less={less}")
    await expect(page.locator("#results .tile.loaded").nth(13)).to_be_visible()
    await _pictures_shown(page, ".query")
    await _save(page, "search.webp")
    await asyncio.to_thread(_add_copies, server)
    await page.goto("/#/duplicates")
    await expect(page.locator(".group").nth(1)).to_be_visible()
    await _pictures_shown(page, ".group:first-child")
    await _save(page, "duplicates.webp")


def _add_copies(server: ImgsimServer) -> None:
    """Smaller ones of some photographs."""
    with server.client() as client:
        for path in sorted((DATA / "neardup").glob("*.jpg"))[2:5]:
            (smaller := Image.open(path)).thumbnail((360, 360))
            smaller.save(out := io.BytesIO(), "JPEG", quality=70)
            file = {"file": (f"{path.stem} (small).jpg", out.getvalue())}
            image = client.post("/images/upload", files=file).raise_for_status().json()
            wait_until_at_rest(client, image["id"])


def _examples(server: ImgsimServer) -> tuple[str, str]:
    """A daisy and a rose."""
    with server.client() as client:
        first = [
            client.get("/images", params={"tag": tag, "limit": 1}).json()["images"][0] for tag in ("daisy", "roses")
        ]
    return first[0]["id"], first[1]["id"]


async def main() -> None:
    path = chromium()
    if path is None:
        raise SystemExit(MISSING)
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, ImgsimServer(Path(folder) / "data") as server:
        chosen = await asyncio.to_thread(_fill, server)
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
            await _take(browser, server, chosen)
            await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
