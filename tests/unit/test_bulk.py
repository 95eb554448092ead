"""What a bulk import makes of sources and servers that break."""

import asyncio
import io
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from imgsim.bulk import BulkImport
from imgsim.bulk_report import Failure
from imgsim.core.errors import Unavailable
from imgsim.sources import Item
from imgsim.sources.source import failing, opening

Json = dict[str, Any]


class Uploads:
    """Holds every upload until it is let go."""

    def __init__(self, held: bool = False) -> None:
        self.go = asyncio.Event()
        if not held:
            self.go.set()
        self.begun = self.ended = 0
        self.seen, self.broken = asyncio.Event(), asyncio.Event()

    async def upload(
        self, source: Path | BinaryIO, filename: str, collection: str, tags: Sequence[str], metadata: Json
    ) -> Json:
        self.begun += 1
        self.seen.set()
        await self.go.wait()
        self.ended += 1
        return {"id": filename, "duplicate": False, "state": "done", "tags": list(tags), "metadata": metadata}

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
