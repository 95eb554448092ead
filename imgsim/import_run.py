"""One bulk import that a server does for a client, and how far it is."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime

from imgsim.bulk import BulkImport
from imgsim.bulk_report import FailureLog
from imgsim.core.imports import ImportState, ImportStatus
from imgsim.core.models import OnCopy, new_image_id
from imgsim.sources import Item, Source

log = logging.getLogger("imgsim.imports")


class ImportRun:
    """One import, and its task."""

    bulk: BulkImport
    task: asyncio.Task[None]

    def __init__(
        self,
        source: str,
        collection: str,
        tags: Sequence[str],
        on_copy: OnCopy,
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
        self._on_copy = on_copy
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
            on_copy=self._on_copy,
            total=self._total,
            seen=report.seen,
            indexed=report.indexed,
            already_there=report.already_there,
            updated=report.updated,
            rejected=report.rejected,
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


class Begun:
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
