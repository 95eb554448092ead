"""What a bulk import makes of sources and servers that break."""

import asyncio
import io
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from imgsim.bulk import BulkImport
from imgsim.core.errors import Unavailable
from imgsim.core.imports import Failure
from imgsim.sources import Item
from imgsim.sources.source import failing, opening

Json = dict[str, Any]


class Uploads:
    """Holds every upload until it is let go."""

    def __init__(self, held: bool = False) -> None:
        self.go = asyncio.Event()
        if not held:
            self.go.set()
        self.updates: list[tuple[str, Sequence[str], Json]] = []
        self.begun = self.ended = 0
        self.seen, self.broken = asyncio.Event(), asyncio.Event()

    async def upload(
        self,
        source: Path | BinaryIO,
        filename: str,
        collection: str,
        tags: Sequence[str],
        metadata: Json,
        on_copy: str,
    ) -> Json:
        self.begun += 1
        self.seen.set()
        await self.go.wait()
        self.ended += 1
        there = {"tags": ["old"], "metadata": {"album": 1, "path": "old.jpg"}} if filename == "there" else {}
        return {"id": filename, "duplicate": bool(there), "state": "done", "embedding": {}, **there}

    async def update(self, image_id: str, tags: Sequence[str], metadata: Json) -> Json:
        self.updates.append((image_id, tags, metadata))
        return {}

    async def wait(self, image_id: str) -> Json:
        raise AssertionError("It is done.")


class Breaking:
    """Two items, then `error`, when an upload has begun."""

    label = "s3://far"

    def __init__(self, error: Exception, uploads: Uploads) -> None:
        self._error = error
        self._uploads = uploads

    async def items(self) -> AsyncGenerator[Item, None]:
        for number in range(2):
            yield Item(str(number), opening(io.BytesIO), str(number))
        await self._uploads.seen.wait()
        self._uploads.broken.set()
        raise self._error

    def count(self) -> int | None:
        return None


async def test_a_source_that_goes_away_ends_when_what_has_begun_has_ended() -> None:
    uploads = Uploads(held=True)
    bulk = BulkImport(uploads, at_once=3, pauses=())
    running = asyncio.create_task(bulk.run(Breaking(Unavailable("The bucket is away."), uploads)))
    await uploads.broken.wait()
    assert not running.done()
    uploads.go.set()

    report = await running

    assert (uploads.begun, uploads.ended, report.indexed) == (2, 2, 2)
    assert report.unavailable == "The bucket is away."
    assert not report.complete


async def test_a_source_that_breaks_is_a_failure_beside_what_it_gave() -> None:
    for error, reason in (
        (OSError(5, "Input/output error"), "Input/output error"),
        (ValueError("a bug"), "Something went wrong here; the log says more."),
    ):
        uploads = Uploads()
        report = await BulkImport(uploads, at_once=3).run(Breaking(error, uploads))

        assert (report.indexed, report.failed) == (2, 1)
        assert (report.failures[0].source, report.failures[0].reason) == ("s3://far", reason)


async def test_a_report_that_cannot_be_written_ends_the_import_and_says_so() -> None:
    def full(failure: Failure) -> None:
        raise OSError(28, "No space left on device")

    class Failing:
        label = "failing"

        async def items(self) -> AsyncGenerator[Item, None]:
            for number in range(1000):
                yield failing(str(number), ValueError("gone"))

        def count(self) -> int | None:
            return None

    report = await BulkImport(Uploads(), at_once=2, on_failure=full).run(Failing())

    assert report.unavailable == "The failures cannot be written down: No space left on device."
    assert 1 <= report.failed <= 4


async def test_a_table_adds_to_images_that_are_there() -> None:
    class Table:
        label = "t.csv"

        async def items(self) -> AsyncGenerator[Item, None]:
            yield Item("a", opening(io.BytesIO), "there", ["new", "old"], {"path": "new.jpg", "album": 2, "by": "Ann"})
            yield Item("b", opening(io.BytesIO), "there", ["old"], {"path": "elsewhere.jpg", "album": 1})
            yield Item("c", opening(io.BytesIO), "there", [], {"path": "elsewhere.jpg"})
            yield Item("d", opening(io.BytesIO), "fresh", ["new"], {"album": 3})

        def count(self) -> int | None:
            return None

    uploads = Uploads()
    report = await BulkImport(uploads, tags=["run"]).run(Table())

    assert uploads.updates == [("there", ["old", "new"], {"album": 2, "path": "old.jpg", "by": "Ann"})]
    assert (report.indexed, report.already_there, report.updated) == (1, 3, 1)
    assert str(report).startswith("1 indexed, 3 already there (1 updated), ")
