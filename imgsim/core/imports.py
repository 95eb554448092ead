"""What is told of a bulk import that a server does."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from imgsim.core.models import OnCopy


@dataclass(frozen=True, slots=True)
class Failure:
    source: str
    """Path, URL or the like."""
    reason: str
    type: str
    """As ``type`` of an HTTP error, or of an image's error; ``unreadable`` for what the system could not read."""


class ImportState(StrEnum):
    RUNNING = "running"
    DONE = "done"  # all that there was was looked at
    STOPPED = "stopped"  # something is left; send it again to go on


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportStatus:
    """How far an import is. `failures` are the first 100."""

    id: UUID
    state: ImportState
    source: str
    """Name of the file, or URL of the bucket."""
    collection: str
    tags: Sequence[str]
    on_copy: OnCopy = OnCopy.ACCEPT
    total: int | None
    """How many there are, where that is known before the end."""
    seen: int
    indexed: int
    already_there: int
    updated: int
    """Of those: images that got tags or metadata of the table."""
    rejected: int = 0
    """Stored, but rejected by a stage, and so not to be found."""
    not_images: int
    failed: int
    pending: int
    """Uploaded, and not waited for, as the import was to stop."""
    failures: Sequence[Failure]
    reason: str | None
    """Why it stopped."""
    created_at: datetime
    ended_at: datetime | None
