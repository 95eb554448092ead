"""The page over a large stock: scrolls the gallery from the newest image to the oldest in a real browser.

``python -m tests.benchmarks.page --points 100000`` fills a data directory with rows (without files, so that no
thumbnail is there), scrolls, and prints what the browser had to carry on the way.
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from playwright.async_api import Page, async_playwright

from tests.benchmarks.stock import fill
from tests.browser.chromium import FLAGS, MISSING, chromium
from tests.processes import ImgsimServer

# Scrolls by nearly a screen in each frame, as fast as a person never could, and waits at the end for the next page.
_SCROLL = """async (wanted) => {
    const frames = [], elements = [], heaps = [];
    const started = performance.now();
    const loaded = () => Number(document.querySelector(".gallery .foot .status").textContent.replace(/\\D/g, ""));
    let last = await new Promise(requestAnimationFrame);
    while (loaded() < wanted || scrollY + innerHeight < document.documentElement.scrollHeight - 2) {
        scrollBy(0, innerHeight * 0.9);
        const now = await new Promise(requestAnimationFrame);
        frames.push(now - last);
        last = now;
        if (frames.length % 200 === 0) {
            elements.push(document.querySelectorAll("*").length);
            heaps.push(performance.memory.usedJSHeapSize / 1e6);
        }
        if (performance.now() - started > 900000) throw new Error(`only ${loaded()} after 15 minutes`);
    }
    return { seconds: (performance.now() - started) / 1000, frames, elements, heaps };
}"""
# Back and forth over what is read already: the frames of scrolling alone.
_WANDER = """async () => {
    const frames = [];
    let last = await new Promise(requestAnimationFrame);
    for (let n = 0; n < 600; n += 1) {
        if (n % 60 === 0) scrollTo(0, document.documentElement.scrollHeight * ((n / 60 * 0.37) % 1));
        else scrollBy(0, innerHeight / 4);
        const now = await new Promise(requestAnimationFrame);
        frames.push(now - last);
        last = now;
    }
    return frames;
}"""


async def measure(url: str, points: int) -> dict[str, Any]:
    async with async_playwright() as playwright:
        flags = [*FLAGS, "--enable-precise-memory-info", "--js-flags=--expose-gc"]
        browser = await playwright.chromium.launch(executable_path=chromium(), args=flags)
        page = await browser.new_page(viewport={"width": 1280, "height": 800})
        await page.goto(url)
        await page.locator("#grid .tile").first.wait_for()
        before = await _state(page)
        scrolled = await page.evaluate(_SCROLL, points)
        after = await _state(page)
        wandered = await page.evaluate(_WANDER)
        await browser.close()
    return {
        "images": points,
        "seconds to the end": round(scrolled["seconds"], 1),
        "elements at first": before["elements"],
        "elements at most": max(scrolled["elements"] + [after["elements"]]),
        "heap at first MB": before["heap"],
        "heap at the end MB": after["heap"],
        "frame ms to the end p50 / p99 / max": _frames(scrolled["frames"]),
        "frame ms over all of it p50 / p99 / max": _frames(wandered),
    }


async def _state(page: Page) -> dict[str, Any]:
    """After a collection of garbage."""
    found: dict[str, Any] = await page.evaluate(
        """() => { gc(); return {
            elements: document.querySelectorAll("*").length,
            heap: Math.round(performance.memory.usedJSHeapSize / 1e5) / 10,
        } }"""
    )
    return found


def _frames(frames: list[float]) -> str:
    ordered = sorted(frames)
    return f"{ordered[len(ordered) // 2]:.1f} / {ordered[int(len(ordered) * 0.99)]:.1f} / {ordered[-1]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=100_000)
    given = parser.parse_args()
    if chromium() is None:
        raise SystemExit(MISSING)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        fill(data, given.points)
        with ImgsimServer(data) as server:
            print(json.dumps(asyncio.run(measure(server.url, given.points)), indent=2))


if __name__ == "__main__":
    main()
