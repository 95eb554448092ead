"""What differs between the engines, as the repository sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from piccolo.querystring import QueryString

from imgsim.adapters.database.tables import Tables
from imgsim.core.models import ImageState

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """The SQL that not every engine has."""

    lock: str = ""
    """Ends a SELECT: locks its rows in its order, waiting for those that another transaction holds."""
    lock_free: str = ""
    """As `lock`, but passes over the rows that another transaction holds."""
    lock_table: str = ""
    """A statement: until the end of its transaction nobody else writes to the table."""
    arrays: bool = False
    entered: str = "json_set(COALESCE(states, json_object()), '$.%s', {})"
    """The times of the states, with that of the named one changed."""
    one_more_tag: str = "json_insert(tags, '$[#]', {})"
    has_tag: str = "EXISTS (SELECT 1 FROM json_each(image.tags) WHERE value = {})"
    count_of_tags: str = "json_array_length(tags)"

    def one_of(self, values: Sequence[UUID]) -> QueryString:
        """What follows a column that is to be one of `values`."""
        if self.arrays:  # one statement to prepare, however many they are
            return QueryString("= ANY({})", list(values))
        return QueryString(f"IN ({', '.join('{}' for _ in values)})", *values)

    def states(self, entered: ImageState, now: datetime | QueryString) -> QueryString:
        """What the column ``states`` becomes when an image enters this state."""
        return QueryString(self.entered % entered.value, now)


class Session(Protocol):
    """How one engine opens, migrates, writes and reads; translates its driver's errors."""

    dialect: Dialect

    async def open(self) -> Tables: ...

    async def close(self) -> None: ...

    async def migrate_if_new(self) -> None:
        """Make the tables of a new database; ``Unavailable`` where an old one waits for ``imgsim migrate``."""
        ...

    def now(self, plus_seconds: float = 0.0) -> datetime | QueryString:
        """The time by a clock that all processes on this database share."""
        ...

    async def execute(self, *statements: QueryString, synced: bool = True) -> Sequence[Rows]:
        """Run the statements in one transaction, maybe twice; return the rows of each once all are committed.

        Not `synced`, a power cut may undo them, which costs work that is then done again, never an image;
        such statements end with their RETURNING list.
        """
        ...

    async def select(self, statement: QueryString, seconds: float | None = None) -> Rows:
        """`seconds`: how long it may take, where that is longer than usual."""
        ...
