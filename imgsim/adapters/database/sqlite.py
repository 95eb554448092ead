"""The repository in one SQLite file, for one process."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from piccolo.querystring import QueryString

from imgsim.adapters.database.migrate import migrate, migrate_if_new
from imgsim.adapters.database.session import Dialect, Rows
from imgsim.adapters.database.sqlite_engine import GroupCommitSQLiteEngine
from imgsim.adapters.database.tables import Tables, bind_tables
from imgsim.core.errors import InvalidRequest, Unavailable, WrongState
from imgsim.settings import Settings


class SQLiteSession:
    dialect = Dialect()  # one connection writes: nobody else holds a row

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
        with self._translated("migrated"):
            return await migrate(self._engine)

    async def migrate_if_new(self) -> None:
        with self._translated("migrated"):
            await migrate_if_new(self._engine)

    def now(self, plus_seconds: float = 0.0) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=plus_seconds)

    async def execute(self, *statements: QueryString, synced: bool = True) -> Sequence[Rows]:
        with self._translated("written"):
            return await self._engine.execute(statements, synced)

    async def select(self, statement: QueryString, seconds: float | None = None) -> Rows:
        with self._translated("read"):
            return await self._engine.select(statement)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DataError, OverflowError, UnicodeEncodeError) as error:
            raise InvalidRequest(f"The database cannot hold this: {error}.") from error
        except sqlite3.IntegrityError as error:
            raise WrongState(f"A row stands in the way: {error}.") from error
        except sqlite3.Error as error:
            raise Unavailable(f"The database {self._path} cannot be {what}: {error}.") from error


def sqlite_session(settings: Settings) -> SQLiteSession:
    """``sqlite:///absolute/path`` or ``sqlite://relative/path``."""
    return SQLiteSession(Path(settings.part_url("database").removeprefix("sqlite://")))


async def migrate_sqlite(settings: Settings) -> list[str]:
    session = sqlite_session(settings)
    await session.open()
    try:
        return await session.migrate()
    finally:
        await session.close()
