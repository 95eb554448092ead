"""One browser for all tests of the page, and for each module a server of its own with a stage that fails on demand."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.browser import faulty_plugin
from tests.browser.chromium import FLAGS, MISSING, chromium
from tests.processes import ImgsimServer, wait_until_at_rest
from tests.servers import free_port

Json = dict[str, Any]


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip(MISSING)
    expect.set_options(timeout=10_000)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        await browser.close()


@dataclass
class Site:
    """A running server, and how its images are made to fail or to wait."""

    server: ImgsimServer
    faults: Path
    client: httpx.Client

    @property
    def url(self) -> str:
        return self.server.url

    def upload(self, path: Path, **fields: Any) -> Json:
        """An image that is done, uploaded beside the browser. ``filename`` may be given."""
        name = fields.pop("filename", path.name)
        answer = self.client.post("/images/upload", files={"file": (name, path.read_bytes())}, data=fields)
        return wait_until_at_rest(self.client, answer.raise_for_status().json()["id"])

    def listed(self, **where: Any) -> list[Json]:
        images: list[Json] = (
            self.client.get("/images", params={"limit": 100, **where}).raise_for_status().json()["images"]
        )
        return images


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("page")
    (faults := folder / "faults").mkdir()
    faulty_plugin.install(folder / "site")
    settings = {
        "PYTHONPATH": str(folder / "site"),
        "FAULTS": str(faults),
        "IMGSIM_JOBS__MAX_ATTEMPTS": "1",
        "IMGSIM_FETCH__ALLOW_PRIVATE": "true",
    }
    with ImgsimServer(folder / "data", settings, port=free_port()) as server, server.client() as client:
        yield Site(server, faults, client)


@dataclass
class Watch:
    """What must not happen on the page: errors, dialogs, violations of the policy, requests to anybody else."""

    url: str
    also: str = "data:"
    """Where else it may ask: an object store."""
    allowed: set[int] = field(default_factory=set)
    """Statuses that the test asks for, which the console tells of as errors."""
    may_break: bool = False
    """Whether the test takes the server away."""
    seen: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        page.on("request", lambda request: self._request(request.url))
        page.on("console", lambda message: self._console(message.type, message.text))
        page.on("pageerror", lambda error: self.seen.append(f"uncaught: {error}"))
        page.on("dialog", self._dialog)

    def _request(self, url: str) -> None:
        if not url.startswith((self.url + "/", "blob:", self.also)):
            self.seen.append(f"a request to {url}")

    def _console(self, kind: str, text: str) -> None:
        status = re.search(r"the server responded with a status of (\d+)", text)
        gone = "net::ERR_" in text and self.may_break
        if kind in ("error", "warning") and not gone and not (status and int(status[1]) in self.allowed):
            self.seen.append(f"{kind}: {text}")

    async def _dialog(self, dialog: Any) -> None:
        if dialog.type != "beforeunload":  # which the page asks on purpose
            self.seen.append(f"a dialog: {dialog.message}")
        await dialog.accept()


@pytest.fixture
def watch(site: Site) -> Watch:
    return Watch(site.url)


@pytest.fixture(scope="module")
async def context(browser: Browser, site: Site) -> AsyncIterator[BrowserContext]:
    """Keeps the page's files in its cache, as browsers do."""
    context = await browser.new_context(base_url=site.url)
    yield context
    await context.close()


@pytest.fixture
async def page(context: BrowserContext, watch: Watch) -> AsyncIterator[Page]:
    """The gallery, and afterwards the proof that nothing happened that must not."""
    page = await context.new_page()
    watch.follow(page)
    await page.set_viewport_size({"width": 1280, "height": 800})
    await page.goto("/")
    await expect(page.locator(".gallery")).to_be_visible()
    yield page
    await page.close()
    assert watch.seen == []


@asynccontextmanager
async def visiting(browser: Browser, watch: Watch) -> AsyncIterator[Page]:
    """The page of another server, the one of `watch`, as a browser that was never there sees it."""
    context = await browser.new_context(base_url=watch.url)
    try:
        page = await context.new_page()
        watch.follow(page)
        await page.goto("/")
        yield page
    finally:
        await context.close()
    assert watch.seen == []


async def open_collection(page: Page, collection: str) -> None:
    """The gallery of one collection alone."""
    await page.goto(f"/#/?collection={quote(collection)}")
    await page.reload()
    await expect(page.locator(".gallery")).to_be_visible()
