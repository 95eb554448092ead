"""Bulk imports that a server does for its clients, in the background."""

import asyncio
import contextlib
import logging
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO, cast
from uuid import UUID

from imgsim.bulk import BulkImport
from imgsim.bulk_report import Failure, FailureLog
from imgsim.core.errors import ImportNotFound, InvalidRequest, Overloaded, Unavailable
from imgsim.core.events import EventBus
from imgsim.core.models import new_image_id
from imgsim.core.ports import ImageRepository
from imgsim.core.services import IngestService, LifecycleService
from imgsim.core.services.ingest import valid_collection, valid_tags
from imgsim.sources import Item, Reach, Source, source_at, source_in
from imgsim.sources.source import in_thread
from imgsim.uploads import ServiceUploads

log = logging.getLogger("imgsim.imports")

_REMEMBERED = 100  # imports that have ended
_MOST_FAILURES = 100_000  # that are kept of one; some 20 MB
_PAUSES = (1.0, 2.0, *(5.0,) * 60)  # seconds: five minutes that a part may be away
_SECONDS_TO_STOP = 5.0


class ImportState(StrEnum):
    RUNNING = "running"
    DONE = "done"  # all that there was was looked at
    STOPPED = "stopped"  # something is left; send it again to go on


@dataclass(frozen=True, slots=True)
class ImportStatus:
    """How far an import is. `failures` are the first 100."""

    id: UUID
    state: ImportState
    source: str
    """Name of the file, or URL of the bucket."""
    collection: str
    tags: Sequence[str]
    total: int | None
    """How many there are, where that is known before the end."""
    seen: int
    indexed: int
    already_there: int
    updated: int
    """Of those: images that got tags or metadata of the table."""
    not_images: int
    failed: int
    pending: int
    """Uploaded, and not waited for, as the import was to stop."""
    failures: Sequence[Failure]
    reason: str | None
    """Why it stopped."""
    created_at: datetime
    ended_at: datetime | None


class ImportService:
    """Runs imports, `at_once` at a time, `concurrency` images of each. What it knows of them ends with the process.

    An import that was cut off is sent again: what is stored already is found by its content. Errors of a source that
    cannot be read at all come at the start, ``Overloaded`` where too many run.
    """

    def __init__(
        self,
        *,
        ingest: IngestService,
        lifecycle: LifecycleService,
        images: ImageRepository,
        events: EventBus,
        reach: Reach,
        folder: Path,
        at_once: int,
        concurrency: int,
    ) -> None:
        self._ingest = ingest
        self._lifecycle = lifecycle
        self._images = images
        self._events = events
        self._reach = reach
        self._folder = folder
        self._at_once = at_once
        self._concurrency = concurrency
        self._imports: OrderedDict[UUID, _Import] = OrderedDict()
        self._arriving = 0
        self._stopping = False

    def folder(self) -> Path:
        """Where an upload is spooled: not every machine has room for gigabytes in its temporary folder.
        ``Unavailable`` where it cannot be made."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"The folder {self._folder} of imports cannot be used: {error.strerror}.") from error
        return self._folder

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place for one more import while it comes in and is started."""
        running = sum(each.state is ImportState.RUNNING for each in self._imports.values())
        if running + self._arriving >= self._at_once or self._stopping:
            raise Overloaded(f"{self._at_once} imports run already, and no more at a time (imports.at_once).", 30.0)
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    async def start_file(self, file: BinaryIO, name: str, collection: str, tags: Sequence[str]) -> ImportStatus:
        """Import what `file`, an archive, a table or a list called `name`, holds. It may be closed afterwards."""

        await in_thread(file.flush)
        kept = os.dup(file.fileno())

        def open_file() -> BinaryIO:
            opened = os.fdopen(os.dup(kept), "rb")
            opened.seek(0)
            return cast("BinaryIO", opened)

        stop = threading.Event()
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, kept)
            undo.callback(stop.set)  # nobody waits for it any longer
            source = source_in(name, open_file, None, self._stoppable(stop))
            if source is None:
                raise InvalidRequest(f"A file called {name[:200]!r} holds no images.")
            started = await self._start(source, collection, tags, stop)
            started.closing.callback(os.close, kept)
            undo.pop_all()
        return started.status()

    async def start_bucket(self, url: str, collection: str, tags: Sequence[str]) -> ImportStatus:
        if not url.startswith("s3://"):
            raise InvalidRequest(f"Only s3://bucket/prefix can be imported by its URL, not {url[:200]!r}.")
        stop = threading.Event()
        return (await self._start(source_at(url, self._stoppable(stop)), collection, tags, stop)).status()

    def get(self, import_id: UUID) -> ImportStatus:
        return self._find(import_id).status()

    def list(self) -> Sequence[ImportStatus]:
        """Newest first."""
        return [each.status() for each in reversed(self._imports.values())]

    async def failures(self, import_id: UUID) -> AsyncGenerator[bytes, None]:
        """The failures so far, at most 100,000, as JSON lines in chunks. ``ImportNotFound`` at the first."""
        found, offset = self._find(import_id), 0
        yield b""
        while chunk := await in_thread(partial(found.log.read, offset, 1 << 16)):
            yield chunk
            offset += len(chunk)

    async def stop_one(self, import_id: UUID) -> ImportStatus:
        """Stop it, and return when it has; what is uploaded already is processed all the same."""
        found = self._find(import_id)
        await self._end([found])
        return found.status()

    def stop(self) -> None:
        """Begin nothing more: the process stops."""
        self._stopping = True
        for each in self._imports.values():
            each.stop()

    async def close(self) -> None:
        self.stop()
        await self._end(list(self._imports.values()))
        for each in self._imports.values():
            each.forget()

    def _stoppable(self, stop: threading.Event) -> Reach:
        return replace(self._reach, stopping=lambda: stop.is_set() or self._stopping)

    async def _start(self, source: Source, collection: str, tags: Sequence[str], stop: threading.Event) -> "_Import":
        collection, tags = valid_collection(collection), valid_tags(tags)
        try:
            total = await in_thread(source.count)
            items = source.items()
            first = await anext(items, None)  # what cannot be read at all says so now
        except OSError as error:
            raise Unavailable(f"The import cannot be read: {error.strerror or error}.") from error
        try:
            if self._stopping:
                raise Unavailable("The server stops; send it again.")
            failures = FailureLog(self._temporary(), _MOST_FAILURES)
        except BaseException:
            await items.aclose()
            raise
        started = _Import(source.label, collection, tags, total, failures, stop)
        uploads = ServiceUploads(self._ingest, self._lifecycle, self._images, self._events, stop.is_set)
        started.bulk = BulkImport(
            uploads,
            collection,
            tags,
            at_once=self._concurrency,
            pauses=_PAUSES,
            on_failure=started.log.write,
        )
        started.begin(_Begun(source.label, first, items))
        self._imports[started.id] = started
        self._forget_the_oldest()
        return started

    def _temporary(self) -> RawIOBase:
        try:
            return cast("RawIOBase", tempfile.TemporaryFile(dir=self.folder(), buffering=0))
        except OSError as error:
            raise Unavailable(f"The failures of an import cannot be kept: {error.strerror}.") from error

    def _find(self, import_id: UUID) -> "_Import":
        if import_id not in self._imports:
            raise ImportNotFound(f"No import has the id {import_id}; those of before a restart are forgotten.")
        return self._imports[import_id]

    def _forget_the_oldest(self) -> None:
        ended = [each for each in self._imports.values() if each.state is not ImportState.RUNNING]
        for each in ended[: max(0, len(ended) - _REMEMBERED)]:
            self._imports.pop(each.id).forget()

    async def _end(self, imports: Sequence["_Import"]) -> None:
        tasks = [each.task for each in imports if not each.task.done()]
        for each in imports:
            each.stop()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_SECONDS_TO_STOP)
            for task in late:  # a URL that answers slowly, a part that is away
                task.cancel()
            await asyncio.wait(tasks)


class _Import:
    """One import, and its task."""

    bulk: BulkImport
    task: asyncio.Task[None]

    def __init__(
        self,
        source: str,
        collection: str,
        tags: Sequence[str],
        total: int | None,
        log: FailureLog,
        stop: threading.Event,
    ) -> None:
        self.id = new_image_id()
        self.state = ImportState.RUNNING
        self.log = log
        self.closing = contextlib.ExitStack()
        self._stop = stop
        self._source = source
        self._collection = collection
        self._tags = tags
        self._total = total
        self._created_at = datetime.now(UTC)
        self._ended_at: datetime | None = None
        self._reason: str | None = None

    def begin(self, source: Source) -> None:
        self.task = asyncio.create_task(self._run(source), name=f"import {self.id}")

    def stop(self) -> None:
        self._stop.set()
        self.bulk.stop()

    def forget(self) -> None:
        self.log.__exit__(None, None, None)

    def status(self) -> ImportStatus:
        report = self.bulk.report
        return ImportStatus(
            id=self.id,
            state=self.state,
            source=self._source,
            collection=self._collection,
            tags=self._tags,
            total=self._total,
            seen=report.seen,
            indexed=report.indexed,
            already_there=report.already_there,
            updated=report.updated,
            not_images=report.not_images,
            failed=report.failed,
            pending=report.pending,
            failures=tuple(report.failures),
            reason=self._reason,
            created_at=self._created_at,
            ended_at=self._ended_at,
        )

    async def _run(self, source: Source) -> None:
        self.state, outcome = ImportState.RUNNING, ImportState.STOPPED
        try:
            report = await self.bulk.run(source)
            self._reason = report.unavailable or ("It was stopped." if report.stopped else None)
            outcome = ImportState.STOPPED if self._reason else ImportState.DONE
        except asyncio.CancelledError:
            self._reason = "It was stopped."
        except Exception as error:
            log.error("the import %s of %s broke", self.id, self._source, exc_info=error)
            self._reason = "Something went wrong in the server; its log says more."
        finally:
            self.state, self._ended_at = outcome, datetime.now(UTC)
            self.closing.close()


class _Begun:
    """A source of which the first item is drawn already."""

    def __init__(self, label: str, first: Item | None, rest: AsyncGenerator[Item, None]) -> None:
        self.label = label
        self._first = first
        self._rest = rest

    async def items(self) -> AsyncGenerator[Item, None]:
        async with contextlib.aclosing(self._rest):
            if self._first is not None:
                yield self._first
            async for item in self._rest:
                yield item

    def count(self) -> int | None:
        return None
