"""What differs between the engines, as the repository sees it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from piccolo.querystring import QueryString

from imgsim.adapters.database.tables import Tables

T = TypeVar("T")
Rows = Sequence[Mapping[str, Any]]


class Session(Protocol):
    """How one engine opens, migrates, writes and reads; translates its driver's errors."""

    async def open(self) -> Tables: ...

    async def close(self) -> None: ...

    async def migrate_if_new(self) -> None:
        """Make the tables of a new database; ``Unavailable`` where an old one waits for ``imgsim migrate``."""
        ...

    async def execute(self, *statements: QueryString, synced: bool = True) -> Sequence[Rows]:
        """Run the statements in one transaction, maybe twice; return the rows of each once all are committed.

        Not `synced`, a power cut may undo them, which costs work that is then done again, never an image.
        """
        ...

    async def write(self, operation: Callable[[], Awaitable[T]]) -> T:
        """As ``execute``, for queries that depend on each other's answers."""
        ...

    async def read(self, query: Awaitable[T]) -> T: ...

    async def select(self, statement: QueryString) -> Rows: ...
