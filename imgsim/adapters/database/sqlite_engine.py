"""Piccolo's SQLite engine with connections that stay open, and writes that share a commit.

Piccolo opens a connection, and with it a thread, for every query. Here one connection reads and one
writes, each on its own thread. What waits for a thread is taken together: the writes go into one
transaction with one fsync for all of them, and each is durable when its caller hears of it.
"""

import asyncio
import functools
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from piccolo.engine.sqlite import SQLiteEngine
from piccolo.querystring import QueryString

from imgsim.adapters.batcher import Batcher
from imgsim.core.errors import Unavailable

Rows = Sequence[Any]
"""``sqlite3.Row``s: values by the names of the columns."""
Compiled = tuple[str, Sequence[Any]]
"""SQL and its arguments."""

_LARGEST_GROUP = 128
_MOST_WAITING = 10_000
_OF_NO_STATEMENT = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


@dataclass(frozen=True, slots=True)
class _Write:
    """The statements of one caller; `synced`: their commit outlives a power cut."""

    statements: Sequence[Compiled]
    synced: bool


class GroupCommitSQLiteEngine(SQLiteEngine):
    """``execute`` returns once its changes are committed; ``select`` sees what is committed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path=str(path), timeout=30)
        self._reads = Batcher[Compiled, Rows](self._read, 1, _LARGEST_GROUP, _MOST_WAITING, "database")
        self._writes = Batcher[_Write, Sequence[Rows]](self._commit, 1, _LARGEST_GROUP, _MOST_WAITING, "database")

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.to_thread(lambda: (self._connect(), self._connect()))

    async def close(self) -> None:
        await self._writes.close()
        await self._reads.close()
        for connection in (self._reader, self._writer):
            await asyncio.to_thread(connection.close)

    async def select(self, statement: QueryString) -> Rows:
        (rows,) = await self._reads.submit([_compiled(statement)])
        return rows

    async def execute(self, statements: Sequence[QueryString], synced: bool) -> Sequence[Rows]:
        """Run `statements` in one transaction, and return the rows of each; `synced`: once they outlive a power cut."""
        (rows,) = await self._writes.submit([_Write([_compiled(statement) for statement in statements], synced)])
        return rows

    # in threads

    def _connect(self) -> sqlite3.Connection:
        connection: sqlite3.Connection = sqlite3.connect(**{**self.connection_kwargs, "check_same_thread": False})
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA cache_size = -32768")  # KiB
        return connection

    def _read(self, group: Sequence[Compiled]) -> list[Rows]:
        return [self._reader.execute(*statement).fetchall() for statement in group]

    def _commit(self, group: Sequence[_Write]) -> list[Sequence[Rows]]:
        """All statements of all callers in one transaction; the rows of each. Whoever is at fault fails alone:
        all is rolled back, and the batcher tries them one by one."""
        run = self._writer.execute
        # With FULL a commit outlives a power cut; with NORMAL it outlives the process, and the next FULL one syncs it.
        try:
            run(f"PRAGMA synchronous = {'FULL' if any(write.synced for write in group) else 'NORMAL'}")
            run("BEGIN IMMEDIATE")
            rows: list[Sequence[Rows]] = [
                [run(*statement).fetchall() for statement in write.statements] for write in group
            ]
            run("COMMIT")
        except BaseException as error:
            if self._writer.in_transaction:
                run("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in _OF_NO_STATEMENT:
                # Nobody's fault: tried one by one, each would wait for its own timeout.
                raise Unavailable(f"The database cannot be written: {error}.") from error
            raise
        return rows


def _compiled(statement: QueryString) -> Compiled:
    if any(isinstance(argument, QueryString) for argument in statement.args):
        return statement.compile_string(engine_type="sqlite")
    return _with_places(statement.template), statement.args


@functools.lru_cache(256)
def _with_places(template: str) -> str:
    """A template without others in it as SQL: parsing it takes longer than running it."""
    return "".join(prefix + ("" if name is None else "?") for prefix, name, _, _ in Formatter().parse(template))
