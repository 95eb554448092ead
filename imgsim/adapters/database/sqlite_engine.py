"""Piccolo's SQLite engine with connections that stay open, and writes that share a commit.

Piccolo opens a connection, and with it a thread, for every query. Here one connection reads and one
writes, each on its own thread, and the writes that wait at the same time go into one transaction:
one fsync for all of them, and each is durable when its caller hears of it.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from piccolo.engine.sqlite import SQLiteEngine, dict_factory
from piccolo.querystring import QueryString

T = TypeVar("T")
Rows = list[dict[str, Any]]
Compiled = tuple[str, list[Any]]
"""SQL and its arguments."""

_LARGEST_GROUP = 128


def _sync(synced: bool) -> str:
    """With FULL a commit outlives a power cut; with NORMAL it outlives the process, and the next FULL one syncs it."""
    return f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}"


class _Connection:
    """One sqlite3 connection and the one thread that may use it: one hop for all the work of a call."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._connection: sqlite3.Connection

    async def open(self, **options: Any) -> Self:
        def connect() -> sqlite3.Connection:
            connection: sqlite3.Connection = sqlite3.connect(**options)
            connection.row_factory = dict_factory
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA cache_size = -32768")  # KiB
            return connection

        self._connection = await self._call(connect)
        return self

    async def run(self, statement: Compiled) -> Rows:
        return await self._call(lambda: self._run(statement))

    async def commit(self, group: Sequence[Sequence[Compiled]], synced: bool) -> list[list[Rows]]:
        """All statements of all callers in one transaction; the rows of each."""

        def transaction() -> list[list[Rows]]:
            self._connection.execute(_sync(synced))
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                rows = [[self._run(statement) for statement in statements] for statements in group]
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            return rows

        return await self._call(transaction)

    async def close(self) -> None:
        await self._call(self._connection.close)
        self._thread.shutdown()

    def _run(self, statement: Compiled) -> Rows:
        sql, arguments = statement
        return self._connection.execute(sql, arguments).fetchall()

    async def _call(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


@dataclass(slots=True)
class _Waiting:
    """The statements of one caller, and who waits for their rows."""

    statements: Sequence[Compiled]
    outcome: asyncio.Future[list[Rows]]
    synced: bool

    def resolve(self, result: list[Rows]) -> None:
        if not self.outcome.done():
            self.outcome.set_result(result)

    def refuse(self, error: Exception) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)


class GroupCommitSQLiteEngine(SQLiteEngine):
    """``execute`` returns once its changes are committed; ``select`` sees what is committed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path=str(path), timeout=30)
        self._reader = _Connection("imgsim-sqlite-read")
        self._writer = _Connection("imgsim-sqlite-write")
        self._waiting: deque[_Waiting] = deque()
        self._commits: asyncio.Task[None] | None = None

    async def open(self) -> None:
        options = {**self.connection_kwargs, "check_same_thread": False}
        await self._writer.open(**options)
        await self._reader.open(**options)

    async def close(self) -> None:
        if self._commits is not None:
            await self._commits
        await self._reader.close()
        await self._writer.close()

    async def select(self, statement: QueryString) -> Rows:
        return await self._reader.run(self._compiled(statement))

    async def execute(self, statements: Sequence[QueryString], synced: bool) -> list[Rows]:
        """Run `statements` in one transaction, and return the rows of each; `synced`: once they outlive a power cut."""
        compiled = [self._compiled(statement) for statement in statements]
        waiting = _Waiting(compiled, asyncio.get_running_loop().create_future(), synced)
        self._waiting.append(waiting)
        if self._commits is None or self._commits.done():
            # A fresh context: the group belongs to none of its callers.
            self._commits = asyncio.get_running_loop().create_task(self._commit_all(), context=Context())
        return await waiting.outcome

    async def _commit_all(self) -> None:
        while self._waiting:
            size = min(len(self._waiting), _LARGEST_GROUP)
            await self._commit([self._waiting.popleft() for _ in range(size)])

    async def _commit(self, group: list[_Waiting]) -> None:
        try:
            statements = [waiting.statements for waiting in group]
            rows = await self._writer.commit(statements, any(waiting.synced for waiting in group))
        except Exception as error:
            if len(group) == 1:
                group[0].refuse(error)
                return
            for waiting in group:  # all was rolled back: one by one, the one at fault fails alone
                await self._commit([waiting])
        else:
            for waiting, result in zip(group, rows, strict=True):
                waiting.resolve(result)

    def _compiled(self, querystring: QueryString) -> Compiled:
        return querystring.compile_string(engine_type=self.engine_type)
