"""What a bulk import did, and a file of what failed."""

import threading
from dataclasses import asdict, dataclass, field
from io import SEEK_END, RawIOBase
from types import TracebackType
from typing import Any, Self

import msgspec

from imgsim.core.imports import Failure

SHOWN = 100
"""Failures that a report holds; ``FailureLog`` keeps all."""


@dataclass(slots=True)
class BulkReport:
    indexed: int = 0
    already_there: int = 0
    updated: int = 0
    """Of those that were there: images that got tags or metadata of a table."""
    rejected: int = 0
    """Stored, but not to be found, as a stage says: what is not welcome, or a copy with ``on_copy=reject``."""
    not_images: int = 0
    failed: int = 0
    pending: int = 0
    """Uploaded, and not waited for, because the import was to stop."""
    failures: list[Failure] = field(default_factory=list)
    """The first ``SHOWN`` of them."""
    stopped: bool = False
    """Something is left because it was to stop."""
    unavailable: str | None = None
    """Something is left because of this."""

    @property
    def seen(self) -> int:
        return self.indexed + self.already_there + self.rejected + self.not_images + self.failed + self.pending

    @property
    def complete(self) -> bool:
        return not (self.failed or self.stopped or self.unavailable)

    def __str__(self) -> str:
        updated = f" ({self.updated} updated)" if self.updated else ""
        rejected = f"{self.rejected} rejected, " if self.rejected else ""
        return (
            f"{self.indexed} indexed, {self.already_there} already there{updated}, {rejected}"
            f"{self.not_images} passed over (no images), {self.failed} failed"
        )

    def add(self, failure: Failure) -> None:
        self.failed += 1
        if len(self.failures) < SHOWN:
            self.failures.append(failure)

    def summary(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"seen": self.seen, **asdict(self)}


class FailureLog:
    """JSON lines in `file`: one for each failure as it happens, the first `limit` of them; threads may share it."""

    def __init__(self, file: RawIOBase, limit: int | None = None) -> None:
        self._file = file
        self._limit = limit
        self._lines = 0
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, failure: Failure) -> None:
        """``OSError``."""
        self._append(failure)

    def read(self, offset: int, size: int) -> bytes:
        """What was written, from `offset` on."""
        with self._turn:
            self._file.seek(offset)
            return self._file.read(size) or b""

    def end(self, report: BulkReport) -> None:
        """A last line, with the summary."""
        summary = report.summary()
        del summary["failures"]
        self._append({"summary": summary})

    def _append(self, value: Any) -> None:
        with self._turn:
            self._lines += 1
            if self._limit is None or self._lines <= self._limit:
                self._file.seek(0, SEEK_END)
                self._file.write(msgspec.json.encode(value) + b"\n")  # unbuffered: whole lines, also after a kill
