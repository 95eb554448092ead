"""The repository in one SQLite file, for one process."""

import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from piccolo.querystring import QueryString

from imgsim.adapters.database.migrate import migrate, migrate_if_new
from imgsim.adapters.database.piccolo_repository import PiccoloImageRepository
from imgsim.adapters.database.session import Rows
from imgsim.adapters.database.sqlite_engine import GroupCommitSQLiteEngine
from imgsim.adapters.database.tables import Tables, bind_tables
from imgsim.core.errors import Unavailable, WrongState

T = TypeVar("T")


class SQLiteSession:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self) -> Tables:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._engine = GroupCommitSQLiteEngine(self._path)
            await self._engine.open()
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"The database {self._path} cannot be opened: {error}.") from error
        return bind_tables(self._engine)

    async def close(self) -> None:
        await self._engine.close()

    async def migrate(self) -> list[str]:
        return await migrate(self._engine)

    async def migrate_if_new(self) -> None:
        await migrate_if_new(self._engine)

    async def execute(self, *statements: QueryString, synced: bool = True) -> Sequence[Rows]:
        with self._translated("written"):
            return await self._engine.execute(statements, synced)

    async def write(self, operation: Callable[[], Awaitable[T]]) -> T:
        with self._translated("written"):
            return await self._engine.write(operation)

    async def read(self, query: Awaitable[T]) -> T:
        with self._translated("read"):
            return await query

    async def select(self, statement: QueryString) -> Rows:
        with self._translated("read"):
            return await self._engine.select(statement)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError as error:
            raise WrongState(f"A row stands in the way: {error}.") from error
        except sqlite3.Error as error:
            raise Unavailable(f"The database {self._path} cannot be {what}: {error}.") from error


def open_sqlite(url: str) -> PiccoloImageRepository:
    """``sqlite:///absolute/path`` or ``sqlite://relative/path``."""
    return PiccoloImageRepository(SQLiteSession(Path(url.removeprefix("sqlite://"))))


async def migrate_sqlite(url: str) -> list[str]:
    session = SQLiteSession(Path(url.removeprefix("sqlite://")))
    await session.open()
    try:
        return await session.migrate()
    finally:
        await session.close()
