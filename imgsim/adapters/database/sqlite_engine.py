"""Piccolo's SQLite engine with connections that stay open, and writes that share a commit.

Piccolo opens a connection, and with it a thread, for every query. Here one connection reads and one
writes, each on its own thread, and the writes that wait at the same time go into one transaction:
one fsync for all of them, and each is durable when its caller hears of it.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import Context, ContextVar
from pathlib import Path
from typing import Any, Self, TypeVar

from piccolo.engine.sqlite import SQLiteEngine, dict_factory
from piccolo.querystring import QueryString

Operation = Callable[[], Awaitable[Any]]
"""Some queries that belong together. May run a second time, after a rollback."""

T = TypeVar("T")

_LARGEST_GROUP = 128


class _Connection:
    """One sqlite3 connection and the one thread that may use it."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._connection: sqlite3.Connection

    async def open(self, **options: Any) -> Self:
        def connect() -> sqlite3.Connection:
            connection: sqlite3.Connection = sqlite3.connect(**options)
            connection.row_factory = dict_factory
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # an acknowledged write outlives a power cut
            connection.execute("PRAGMA cache_size = -32768")
            return connection

        self._connection = await self._call(connect)
        return self

    async def execute(self, sql: str, arguments: list[Any] | None = None) -> list[dict[str, Any]]:
        """One hop to the thread for the statement and all its rows."""
        return await self._call(lambda: self._connection.execute(sql, arguments or []).fetchall())

    async def close(self) -> None:
        await self._call(self._connection.close)
        self._thread.shutdown()

    async def _call(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


class GroupCommitSQLiteEngine(SQLiteEngine):
    """``write`` groups transactions; reads outside of one see what is committed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path=str(path), timeout=30)
        self._reader = _Connection("imgsim-sqlite-read")
        self._writer = _Connection("imgsim-sqlite-write")
        self._in_write: ContextVar[bool] = ContextVar("imgsim_in_write", default=False)
        self._waiting: deque[tuple[Operation, asyncio.Future[Any]]] = deque()
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

    async def write(self, operation: Operation) -> Any:
        """Run `operation` in a transaction and return its result once that is durable."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, future))
        if self._commits is None or self._commits.done():
            # A fresh context: the group belongs to none of its callers.
            self._commits = asyncio.get_running_loop().create_task(self._commit_all(), context=Context())
        return await future

    async def _commit_all(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), _LARGEST_GROUP))]
            try:
                async with self._transaction():
                    results = [await operation() for operation, _ in group]
            except Exception as error:
                await self._commit_one_by_one(group, error)
            else:
                for (_, future), result in zip(group, results, strict=True):
                    if not future.done():
                        future.set_result(result)

    async def _commit_one_by_one(self, group: list[tuple[Operation, asyncio.Future[Any]]], error: Exception) -> None:
        """The group was rolled back: find the operation at fault without failing its neighbours."""
        for operation, future in group:
            try:
                if len(group) == 1:
                    raise error
                async with self._transaction():
                    result = await operation()
            except Exception as own:
                if not future.done():
                    future.set_exception(own)
            else:
                if not future.done():
                    future.set_result(result)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        await self._writer.execute("BEGIN IMMEDIATE")
        token = self._in_write.set(True)
        try:
            yield
        except BaseException:
            await self._writer.execute("ROLLBACK")
            raise
        else:
            await self._writer.execute("COMMIT")
        finally:
            self._in_write.reset(token)

    async def run_querystring(self, querystring: QueryString, in_pool: bool = False) -> Any:
        sql, arguments = querystring.compile_string(engine_type=self.engine_type)
        if self._in_write.get():
            return await self._writer.execute(sql, arguments)
        if self.current_transaction.get() is None and sql.lstrip()[:6].upper() == "SELECT":
            return await self._reader.execute(sql, arguments)
        return await super().run_querystring(querystring, in_pool)  # migrations
