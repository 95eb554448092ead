"""Adding images on the page: chosen, dropped, pasted, in folders; each row from the first byte to its end."""

import base64
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from playwright.async_api import JSHandle, Page, expect
from pyarrow import csv, parquet

from tests.browser.conftest import Site, Watch
from tests.scripted import Request, ScriptedServer, answer

PASTE = """(clipboardData) => {
    document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
}"""
NAME = "<img src=x onerror=alert(1)>.jpg"


async def into(page: Page, collection: str) -> None:
    """What is added goes into `collection`."""
    await page.click("#open-uploads")
    await page.get_by_text("Collection, tags, copies").click()
    await page.locator("#uploads").get_by_label("Collection").fill(collection)
    await page.get_by_label("Close the panel").click()


async def files(page: Page, *paths: Path) -> JSHandle:
    """A DataTransfer as a drop or a paste has it."""
    given = [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in paths]
    return await page.evaluate_handle(
        """(given) => {
            const transfer = new DataTransfer();
            for (const [name, text] of given) {
                const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
                transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
            }
            return transfer;
        }""",
        given,
    )


async def test_chosen_files_show_a_row_each_until_they_are_done(page: Page, site: Site, photos: list[Path]) -> None:
    await into(page, "chosen")
    await page.set_input_files("#choose-files", photos[:6])
    await expect(page.locator(".upload[data-phase=done]")).to_have_count(6)
    await expect(page.locator(".summary")).to_have_text("6 of 6 files")
    await expect(page.locator("#uploads [role=status]")).to_have_text("6 of 6 files")
    assert sorted(image["filename"] for image in site.listed(collection="chosen")) == sorted(
        path.name for path in photos[:6]
    )
    for name in (path.name for path in photos[:6]):
        await expect(page.locator(f'#grid img[alt="{name}"]').first).to_be_visible()

    await page.set_input_files("#choose-files", photos[:1])
    await expect(page.locator(".upload[data-phase=there]")).to_contain_text("duplicate")


async def test_dropped_files_are_added_and_the_overlay_goes(page: Page, site: Site, photos: list[Path]) -> None:
    await into(page, "dropped")
    transfer = await files(page, *photos[6:9])
    await page.dispatch_event("main", "dragenter", {"dataTransfer": transfer})
    await expect(page.locator("#drop")).to_be_visible()
    await page.dispatch_event("#drop [data-drop=upload]", "drop", {"dataTransfer": transfer})
    await expect(page.locator("#drop")).to_be_hidden()
    await expect(page.locator(".upload[data-phase=done]")).to_have_count(3)
    assert len(site.listed(collection="dropped")) == 3


async def test_a_dropped_folder_is_read_with_all_folders_in_it(
    page: Page, site: Site, photos: list[Path], tmp_path: Path
) -> None:
    (deep := tmp_path / "album" / "deep" / "deeper").mkdir(parents=True)
    shutil.copy(photos[10], deep.parent.parent)
    shutil.copy(photos[11], deep)
    (deep / "notes.txt").write_text("no image")
    await into(page, "folders")
    # A drop of the operating system's: one made by a script has no folders.
    cdp = await page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(tmp_path / "album")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        await cdp.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 500, "data": data})
    await expect(page.locator(".upload[data-phase=done]")).to_have_count(2)
    await expect(page.locator(".summary")).to_contain_text("1 passed over")
    assert {image["filename"] for image in site.listed(collection="folders")} == {photos[10].name, photos[11].name}


async def test_a_chosen_folder_is_added_without_what_is_no_image(
    page: Page, site: Site, photos: list[Path], tmp_path: Path
) -> None:
    shutil.copy(photos[12], tmp_path)
    (tmp_path / "Thumbs.db").write_bytes(b"\0")
    await into(page, "picked")
    await page.set_input_files("#choose-folder", tmp_path)
    await expect(page.locator(".upload[data-phase=done]")).to_have_count(1)
    await expect(page.locator(".summary")).to_contain_text("1 passed over")


async def test_a_pasted_image_is_added(page: Page, site: Site, photos: list[Path]) -> None:
    await into(page, "pasted")
    transfer = await files(page, photos[13])
    await page.evaluate(PASTE, transfer)
    await expect(page.locator(".upload[data-phase=done]")).to_have_count(1)
    assert len(site.listed(collection="pasted")) == 1


async def test_a_row_shows_the_states_as_the_events_tell_them(page: Page, site: Site, photos: list[Path]) -> None:
    await into(page, "states")
    slow = {"name": "slow.jpg", "mimeType": "image/jpeg", "buffer": photos[14].read_bytes()}
    (site.faults / "slow").touch()
    await page.set_input_files("#choose-files", slow)  # type: ignore[arg-type]
    row = page.locator(".upload")
    await expect(row).to_contain_text("Embedding: gate")
    await expect(page.locator("#open-uploads")).to_have_text("0 of 1")
    (site.faults / "slow").unlink()
    await expect(row).to_have_attribute("data-phase", "done")
    await expect(page.locator("#open-uploads")).to_have_text("Add images")


async def test_a_failed_image_says_why_and_is_done_after_retry(page: Page, site: Site, photos: list[Path]) -> None:
    await into(page, "failing")
    (site.faults / "faulty").touch()
    faulty = {"name": "faulty.jpg", "mimeType": "image/jpeg", "buffer": photos[15].read_bytes()}
    await page.set_input_files("#choose-files", faulty)  # type: ignore[arg-type]
    row = page.locator(".upload")
    await expect(row).to_have_attribute("data-phase", "error")
    (image,) = site.listed(collection="failing")
    await expect(row).to_contain_text(image["error"]["message"])
    (site.faults / "faulty").unlink()
    await row.get_by_role("button", name="Retry faulty.jpg").click()
    await expect(row).to_have_attribute("data-phase", "done")
    assert site.listed(collection="failing", state="done")[0]["id"] == image["id"]


async def test_what_is_no_image_says_so_and_can_be_sent_again(page: Page, watch: Watch) -> None:
    watch.allowed = {415}
    text = {"name": "holiday.jpg", "mimeType": "image/jpeg", "buffer": b"no image"}
    await page.set_input_files("#choose-files", text)  # type: ignore[arg-type]
    row = page.locator(".upload")
    await expect(row).to_contain_text("not an image")
    async with page.expect_request("**/images/upload"):
        await row.get_by_role("button", name="Retry").click()
    await expect(row).to_have_attribute("data-phase", "error")


async def test_a_busy_server_is_given_the_time_that_it_asks_for(
    page: Page, site: Site, photos: list[Path], watch: Watch
) -> None:
    watch.allowed = {503}
    busy = '{"type": "urn:imgsim:error:overloaded", "detail": "Too many uploads."}'
    answers = []

    async def refuse_once(route: object) -> None:
        answers.append(route)
        if len(answers) == 1:
            headers = {"Retry-After": "1", "Content-Type": "application/problem+json"}
            await route.fulfill(status=503, headers=headers, body=busy)  # type: ignore[attr-defined]
        else:
            await route.continue_()  # type: ignore[attr-defined]

    await page.route("**/images/upload", refuse_once)
    await into(page, "busy")
    await page.set_input_files("#choose-files", photos[16])
    await expect(page.locator(".summary")).to_contain_text("Too many uploads. Going on in 1 s.")
    await expect(page.locator(".upload")).to_have_attribute("data-phase", "done")
    assert len(answers) == 2


async def test_rows_of_20000_files_are_a_few_elements(page: Page, watch: Watch) -> None:
    await page.route("**/images/upload", lambda route: None)  # none of them gets an answer
    await page.click("#open-uploads")
    # As a drop gives them on; 20,000 files in a drop of a script's take Chromium itself ten seconds.
    await page.evaluate(
        """async () => {
            const { uploads } = await import(document.querySelector("script").src.replace("app.js", "upload_queue.js"));
            for (let n = 0; n < 20000; n += 1) uploads.add(new File(["x"], `${n}.jpg`, { type: "image/jpeg" }), {});
        }"""
    )
    await expect(page.locator(".summary")).to_contain_text("0 of 20,000 files")
    assert await page.locator(".upload").count() < 40
    await page.locator(".row-scroller").evaluate("(scroller) => { scroller.scrollTop = scroller.scrollHeight }")
    await expect(page.get_by_text("19999.jpg")).to_be_visible()
    assert await page.locator(".upload").count() < 40
    assert await page.locator(".upload[data-phase=sending]").count() <= 4
    await page.locator("#uploads").get_by_role("button", name="Stop").click()
    await expect(page.locator(".summary")).to_contain_text("20,000 of 20,000 files")


async def test_a_name_of_markup_is_text_everywhere(page: Page, site: Site, photos: list[Path]) -> None:
    metadata = {NAME: NAME, "list": [NAME]}
    await into(page, "markup")
    tags = page.locator("#uploads").get_by_label("Add to tags for all of them")
    await page.click("#open-uploads")
    await tags.fill(NAME)
    await tags.press("Enter")
    named = {"name": NAME, "mimeType": "image/jpeg", "buffer": photos[17].read_bytes()}
    await page.set_input_files("#choose-files", named)  # type: ignore[arg-type]
    await expect(page.locator(".upload[data-phase=done] .row-name")).to_have_text(NAME)
    (image,) = site.listed(collection="markup")
    assert (image["filename"], image["tags"]) == (NAME, [NAME])
    site.client.patch(f"/images/{image['id']}", json={"metadata": metadata}).raise_for_status()

    await page.locator(".upload a").click()
    await expect(page.locator("#detail-title .name")).to_have_text(NAME)
    await expect(page.locator("#detail .chip")).to_have_text(NAME)
    await expect(page.locator("#detail .metadata dt").first).to_have_text(NAME)
    await expect(page.locator("#detail .metadata dd").first).to_have_text(NAME)
    await page.locator('#detail [data-action="delete"]').click()
    await expect(page.locator("#confirm")).to_contain_text(NAME)
    await page.get_by_role("button", name="Cancel").click()
    await page.keyboard.press("Escape")
    await page.goto(f"/#/?collection=markup&tag={NAME.replace(' ', '%20')}")
    await expect(page.locator(".filters .chip")).to_have_text(NAME)
    await expect(page.locator("#grid .tile")).to_have_count(1)
    assert await page.locator('img[src="x"], [onerror]').count() == 0


async def test_the_rows_are_right_after_the_server_was_away(
    page: Page, site: Site, photos: list[Path], watch: Watch
) -> None:
    """What happened while the stream was broken is read again."""
    watch.may_break = True
    await into(page, "break")
    (site.faults / "slow").touch()
    slow = {"name": "slow-2.jpg", "mimeType": "image/jpeg", "buffer": photos[18].read_bytes()}
    await page.set_input_files("#choose-files", slow)  # type: ignore[arg-type]
    await expect(page.locator(".upload")).to_contain_text("Embedding: gate")
    site.server.kill()
    await expect(page.locator("#offline")).to_be_visible()
    (site.faults / "slow").unlink()
    site.server.start()
    row = page.locator(".upload")
    await expect(row).to_contain_text("The process that worked on this image ended")
    await expect(page.locator("#offline")).to_be_hidden()
    await row.get_by_role("button", name="Retry").click()
    await expect(row).to_have_attribute("data-phase", "done")


async def test_an_archive_is_imported_and_its_failures_can_be_read(
    page: Page, site: Site, photos: list[Path], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as archive:
        for path in photos[19:22]:
            archive.write(path, path.name)
        archive.writestr("broken.jpg", photos[22].read_bytes()[:2000])
        archive.writestr("notes.txt", "no image")
    await into(page, "archive")
    await page.set_input_files("#choose-files", tmp_path / "album.zip")
    row = page.locator(".upload")
    await expect(row).to_have_attribute("data-phase", "done")
    await expect(row.locator(".row-state")).to_contain_text("3 indexed, 1 no images, 1 failed")
    async with page.expect_download() as started:
        await row.get_by_role("link", name="Failures").click()
    report = await (await started.value).path()
    assert "broken.jpg" in report.read_text()
    assert len(site.listed(collection="archive")) == 3


@pytest.mark.parametrize("kind", ["csv", "parquet"])
async def test_a_table_brings_tags_and_metadata(
    page: Page, site: Site, photos: list[Path], tmp_path: Path, kind: str
) -> None:
    chosen = photos[31:33]
    with ScriptedServer(lambda request: [answer(chosen[int(request.path.strip("/"))].read_bytes())]) as other:
        rows = {"url": [f"{other.url}/0", f"{other.url}/1"], "tags": ["red;round", "red"], "price": [3, 4]}
        write = {"csv": csv.write_csv, "parquet": parquet.write_table}[kind]
        write(pyarrow.table(rows), tmp_path / f"shop.{kind}")
        await into(page, kind)
        await page.set_input_files("#choose-files", tmp_path / f"shop.{kind}")
        await expect(page.locator(".upload")).to_have_attribute("data-phase", "done")
    images = site.listed(collection=kind)
    assert {image["metadata"]["price"]: set(image["tags"]) for image in images} == {3: {"red", "round"}, 4: {"red"}}


async def test_an_import_is_still_followed_after_the_page_was_opened_anew(
    page: Page, photos: list[Path], tmp_path: Path
) -> None:
    going = threading.Event()

    def script(request: Request) -> Iterator[bytes]:
        going.wait(30)
        yield answer(photos[int(request.path.strip("/"))].read_bytes())

    with ScriptedServer(script) as other:
        (tmp_path / "list.txt").write_text("".join(f"{other.url}/{number}\n" for number in range(23, 26)))
        await into(page, "anew")
        await page.set_input_files("#choose-files", tmp_path / "list.txt")
        await expect(page.locator(".upload[data-phase=processing]")).to_contain_text("Importing")
        await page.reload()
        await page.click("#open-uploads")
        row = page.locator(".upload")
        await expect(row).to_contain_text("list.txt")
        await expect(row).to_have_attribute("data-phase", "processing")
        going.set()
        await expect(row).to_have_attribute("data-phase", "done")
        await expect(row).to_contain_text("3 indexed")
