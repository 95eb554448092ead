"""Bulk imports that a server does for its clients, in the background."""

import asyncio
import contextlib
import logging
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO, cast
from uuid import UUID

from imgsim.bulk import BulkImport, Uploads
from imgsim.bulk_report import FailureLog
from imgsim.core.errors import ImportNotFound, InvalidRequest, Overloaded, Unavailable
from imgsim.core.imports import ImportState, ImportStatus
from imgsim.core.models import OnCopy
from imgsim.core.services.ingest import valid_collection, valid_on_copy, valid_tags
from imgsim.import_run import Begun, ImportRun
from imgsim.sources import Reach, Source, source_at, source_in
from imgsim.sources.source import in_thread

log = logging.getLogger("imgsim.imports")

_REMEMBERED = 100  # imports that have ended
_MOST_FAILURES = 100_000  # that are kept of one; some 20 MB
_PAUSES = (1.0, 2.0, *(5.0,) * 60)  # seconds: five minutes that a part may be away
_SECONDS_TO_STOP = 5.0


@dataclass(frozen=True, slots=True)
class Given:
    """What each image of an import is given, unless its table says otherwise."""

    collection: str = "default"
    tags: Sequence[str] = ()
    on_copy: str = OnCopy.ACCEPT

    def checked(self, finds_copies: bool) -> tuple[str, Sequence[str], OnCopy]:
        """``InvalidRequest``."""
        on_copy = valid_on_copy(self.on_copy, finds_copies)
        return valid_collection(self.collection), valid_tags(self.tags), on_copy


class ImportService:
    """Runs imports, `at_once` at a time, `concurrency` images of each. What it knows of them ends with the process.

    An import that was cut off is sent again: what is stored already is found by its content. Errors of a source that
    cannot be read at all come at the start, ``Overloaded`` where too many run. `uploads` gives where the images go,
    told what says that nobody waits for them any longer.
    """

    def __init__(
        self,
        *,
        uploads: Callable[[Callable[[], bool]], Uploads],
        reach: Reach,
        folder: Path,
        at_once: int,
        concurrency: int,
        finds_copies: bool,
    ) -> None:
        self._uploads = uploads
        self._reach = reach
        self._folder = folder
        self._at_once = at_once
        self._concurrency = concurrency
        self._finds_copies = finds_copies
        self._imports: OrderedDict[UUID, ImportRun] = OrderedDict()
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

    def check(self, given: Given) -> None:
        """``InvalidRequest``."""
        given.checked(self._finds_copies)

    async def start_file(self, file: BinaryIO, name: str, given: Given) -> ImportStatus:
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
            started = await self._start(source, given, stop)
            started.closing.callback(os.close, kept)
            undo.pop_all()
        return started.status()

    async def start_bucket(self, url: str, given: Given) -> ImportStatus:
        if not url.startswith("s3://"):
            raise InvalidRequest(f"Only s3://bucket/prefix can be imported by its URL, not {url[:200]!r}.")
        stop = threading.Event()
        return (await self._start(source_at(url, self._stoppable(stop)), given, stop)).status()

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

    async def _start(self, source: Source, given: Given, stop: threading.Event) -> ImportRun:
        collection, tags, on_copy = given.checked(self._finds_copies)
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
        started = ImportRun(source.label, collection, tags, on_copy, total, failures, stop)
        started.bulk = BulkImport(
            self._uploads(stop.is_set),
            collection,
            tags,
            on_copy=on_copy,
            at_once=self._concurrency,
            pauses=_PAUSES,
            on_failure=started.log.write,
        )
        started.begin(Begun(source.label, first, items))
        self._imports[started.id] = started
        self._forget_the_oldest()
        return started

    def _temporary(self) -> RawIOBase:
        try:
            return cast("RawIOBase", tempfile.TemporaryFile(dir=self.folder(), buffering=0))
        except OSError as error:
            raise Unavailable(f"The failures of an import cannot be kept: {error.strerror}.") from error

    def _find(self, import_id: UUID) -> ImportRun:
        if import_id not in self._imports:
            raise ImportNotFound(f"No import has the id {import_id}; those of before a restart are forgotten.")
        return self._imports[import_id]

    def _forget_the_oldest(self) -> None:
        ended = [each for each in self._imports.values() if each.state is not ImportState.RUNNING]
        for each in ended[: max(0, len(ended) - _REMEMBERED)]:
            self._imports.pop(each.id).forget()

    async def _end(self, imports: Sequence[ImportRun]) -> None:
        tasks = [each.task for each in imports if not each.task.done()]
        for each in imports:
            each.stop()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_SECONDS_TO_STOP)
            for task in late:  # a URL that answers slowly, a part that is away
                task.cancel()
            await asyncio.wait(tasks)
