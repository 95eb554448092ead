"""Uploads all that a source has, a bounded number at a time, and waits until it can be searched."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from imgsim.bulk_report import BulkReport
from imgsim.core.errors import ImgsimError, Unavailable
from imgsim.core.imports import Failure
from imgsim.core.models import ImageState, OnCopy
from imgsim.core.services.ingest import valid_on_copy
from imgsim.sources import Item, Source
from imgsim.sources.source import NotAnImage

log = logging.getLogger("imgsim.bulk")

T = TypeVar("T")

Json = dict[str, Any]

PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds to wait for a part that is away: a long run outlives the restart of a server."""
AT_ONCE = 32
_PLACES = ("path", "url")
_AT_REST = {ImageState.DONE.value, ImageState.ERROR.value}


class Uploads(Protocol):
    """Where the images go. They are as over the wire; errors are ``ImgsimError``."""

    async def upload(
        self,
        source: Path | BinaryIO,
        filename: str,
        collection: str,
        tags: Sequence[str],
        metadata: Json,
        on_copy: str,
    ) -> Json:
        """Store what is at the path, or in the seekable file from its start to its end. ``OSError``.

        A Path is opened for as long as it is sent; a file stays open.
        """
        ...

    async def update(self, image_id: str, tags: Sequence[str], metadata: Json) -> Json:
        """Replace tags and metadata."""
        ...

    async def wait(self, image_id: str) -> Json:
        """The image once it is done or in error, or nobody wants to wait any longer."""
        ...


class BulkImport:
    """`on_progress` is told after each item, `on_indexed` of each that was new, `on_rejected` of each that
    was and that a stage rejected, `on_pause` when a part is away and is
    waited for; `on_failure`, in a thread, of every failure."""

    def __init__(
        self,
        uploads: Uploads,
        collection: str = "default",
        tags: Sequence[str] = (),
        *,
        on_copy: str = OnCopy.ACCEPT,
        at_once: int = AT_ONCE,
        pauses: Iterable[float] = PAUSES,
        on_progress: Callable[[BulkReport], None] = lambda report: None,
        on_indexed: Callable[[Item], None] = lambda item: None,
        on_rejected: Callable[[Item], None] = lambda item: None,
        on_pause: Callable[[Unavailable], None] = lambda error: None,
        on_failure: Callable[[Failure], None] = lambda failure: None,
    ) -> None:
        self.report = BulkReport()
        self._uploads = uploads
        self._collection = collection
        self._tags = tags
        self._on_copy = valid_on_copy(on_copy)
        self._at_once = at_once
        self._pauses = pauses
        self._on_progress = on_progress
        self._on_indexed = on_indexed
        self._on_rejected = on_rejected
        self._on_pause = on_pause
        self._on_failure = on_failure
        self._stopping = False

    def stop(self) -> None:
        """Finish what has begun, and leave the rest for the next run, which finds the same bytes stored already and
        goes on where this one stopped."""
        self._stopping = True

    async def run(self, source: Source) -> BulkReport:
        """Import all that `source` has. When this returns, or raises, nothing is under way any longer."""
        turn = asyncio.Lock()

        async def work(items: AsyncGenerator[Item, None]) -> None:
            while True:
                async with turn:
                    item = await self._next(items, source.label)
                if item is None:
                    return
                await self._index(item)
                self._on_progress(self.report)

        async with aclosing(source.items()) as items:
            async with asyncio.TaskGroup() as workers:
                for _ in range(self._at_once):
                    workers.create_task(work(items))
            if self._stopping and not self.report.stopped:
                self.report.stopped = await self._drawn(items, source.label) is not None
        return self.report

    async def _next(self, items: AsyncGenerator[Item, None], label: str) -> Item | None:
        """None where nothing is left, or nothing more may begin."""
        if self._over():
            return None
        item = await self._drawn(items, label)
        if item is not None and self._stopping:  # while it was looked for
            self.report.stopped = True
            return None
        return item

    async def _drawn(self, items: AsyncGenerator[Item, None], label: str) -> Item | None:
        """None where nothing is left. A source that breaks ends there; the report says so."""
        try:
            return await anext(items, None)
        except Unavailable as error:
            self.report.unavailable = error.message
        except Exception as error:
            await self._failed(_failure(label, error))
        return None

    def _over(self) -> bool:
        return self._stopping or self.report.unavailable is not None

    async def _index(self, item: Item) -> None:
        try:
            image, already_there = await self._stored(item)
        except NotAnImage:
            self.report.not_images += 1
        except Unavailable as error:
            self.report.unavailable = error.message
        except Exception as error:
            await self._failed(_failure(item.label, error))
        else:
            await self._count(item, image, already_there)

    async def _stored(self, item: Item) -> tuple[Json, bool]:
        """The image, at rest, and whether it was there before."""
        async with AsyncExitStack() as stack:
            file = await self._patiently(lambda: stack.enter_async_context(item.open()))
            collection, tags = item.collection or self._collection, [*self._tags, *item.tags]
            image = await self._patiently(
                lambda: self._uploads.upload(file, item.filename, collection, tags, dict(item.metadata), self._on_copy)
            )
        already_there, image_id = image["duplicate"], image["id"]
        if already_there:
            await self._add_to(image, item)
        if image["state"] not in _AT_REST:
            image = await self._patiently(lambda: self._uploads.wait(image_id))
        return image, already_there

    async def _add_to(self, image: Json, item: Item) -> None:
        """What a table says of an image that is there already; where it lies is no news."""
        tags = list(dict.fromkeys([*image["tags"], *item.tags]))
        metadata = image["metadata"] | {name: value for name, value in item.metadata.items() if name not in _PLACES}
        if (tags, metadata) != (image["tags"], image["metadata"]):
            await self._patiently(lambda: self._uploads.update(image["id"], tags, metadata))
            self.report.updated += 1

    async def _count(self, item: Item, image: Json, already_there: bool) -> None:
        if image["state"] == "error":
            error = image["error"]
            await self._failed(Failure(item.label, f"{error['stage']}: {error['message']}", error["type"]))
        elif image["state"] not in _AT_REST:
            self.report.pending += 1
        elif already_there:
            self.report.already_there += 1
        elif image["embedding"] is None:
            self.report.rejected += 1
            self._on_rejected(item)
        else:
            self.report.indexed += 1
            self._on_indexed(item)

    async def _failed(self, failure: Failure) -> None:
        self.report.add(failure)
        try:
            await asyncio.to_thread(self._on_failure, failure)
        except OSError as error:
            self.report.unavailable = f"The failures cannot be written down: {error.strerror or error}."

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        for pause in self._pauses:
            try:
                return await call()
            except Unavailable as error:
                if self._stopping:
                    raise
                self._on_pause(error)
                await asyncio.sleep(pause)
        return await call()


def _failure(label: str, error: Exception) -> Failure:
    if isinstance(error, OSError):
        return Failure(label, error.strerror or str(error), "unreadable")
    if isinstance(error, ImgsimError):
        return Failure(label, error.message, error.code)
    log.error(
        "importing %s failed", label, exc_info=error
    )  # a bug that one file brings to light: go on with the others
    return Failure(label, "Something went wrong here; the log says more.", "internal")
