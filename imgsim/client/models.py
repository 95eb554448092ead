"""What the client takes and gives beside ``imgsim.core.models``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TypedDict
from uuid import UUID

from imgsim.core.models import Vectors

Id = UUID | str

Scalar = str | int | float | bool | None


class Filters(TypedDict, total=False):
    """Which images count. Those that are left out let all pass."""

    tag: str | Sequence[str]
    """All of these tags."""
    any_tag: str | Sequence[str]
    """At least one of these."""
    not_tag: str | Sequence[str]
    """None of these."""
    created_from: datetime | date | str
    """Since then, inclusive; a text is RFC 3339, a datetime without a zone is local time."""
    created_to: datetime | date | str
    """Before then."""


class SearchFilters(Filters, total=False):
    metadata: Mapping[str, Scalar]
    """Equal values of the metadata's top level."""


@dataclass(frozen=True, slots=True)
class Example:
    """An image to search by, and how much it counts beside the others."""

    id: Id
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Encoded:
    model: str
    """Model id with its weights revision, as in ``efficientnet-lite0@1``."""
    vectors: Vectors
    """``(n, dimensions)`` float32, rows of unit length, in the order given."""


@dataclass(frozen=True, slots=True)
class Health:
    status: str
    version: str


@dataclass(frozen=True, slots=True)
class Readiness:
    status: str
    checks: Mapping[str, str]
    """For each part of the server ``ok``, or what is wrong with it."""

    @property
    def ready(self) -> bool:
        return self.status == "ready"
