"""Connections to a PostgreSQL that has pgvector, and its errors as imgsim's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import asyncpg
from pgvector.asyncpg import register_vector

from imgsim.core.errors import InvalidRequest, SettingsError, Unavailable
from imgsim.settings import mask_url

R = TypeVar("R")

CONNECT_SECONDS = 2.5
"""How long a connection may take, also where all are in use."""

ANSWER_SECONDS = 30.0

CLOSE_SECONDS = 5.0

LOCK = 0x696D6773696D76  # "imgsimv"
"""The advisory lock under which tables are made and switched."""

OLDEST = (0, 8)
"""The first pgvector that goes on searching its graph until enough points pass a filter."""

SESSION = {
    "application_name": "imgsim vectors",
    # At 50,000 clustered vectors, 40 finds .993 of the best 10 in 1.8 ms, 100 all of them in 3, 200 in 4.3, 400 in 6.7
    # (by an oversampling of 2): twice what these need, as a larger graph needs more.
    "hnsw.ef_search": "200",
    "hnsw.iterative_scan": "relaxed_order",
    # PostgreSQL does not see what reading a vector costs, which lies outside of the row, and would always sort
    # the whole table. Sorting is still done where there is no other way.
    "enable_sort": "off",
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
}

_WORTH_ANOTHER = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,  # the connection was closed while it lay in the pool
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.DeadlockDetectedError,
    ConnectionError,
)


class PostgresPool:
    """From `least` to `most` connections to the database at `url` that know the type ``vector``.

    ``Unavailable`` while the database cannot be reached, within ``CONNECT_SECONDS``.
    """

    def __init__(self, url: str, least: int, most: int) -> None:
        self._url = url
        self._least = least
        self._most = most
        self._pool: asyncpg.Pool | None = None

    async def open(self, prepare: str) -> None:
        """Make the extension and what the statements `prepare` make, where it is missing, and connect.

        ``SettingsError`` where the URL is none, or the database cannot have the extension.
        """
        async with _translated():
            try:
                connection = await asyncpg.connect(self._url, timeout=CONNECT_SECONDS)
            except ValueError:
                raise SettingsError(f"The setting vectors.url cannot be used (got {mask_url(self._url)!r}).") from None
            try:
                async with connection.transaction():
                    await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
                    schema = await _make_extension(connection)
                    await connection.execute(prepare)
            finally:
                await connection.close(timeout=CONNECT_SECONDS)
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=min(self._least, self._most),
                max_size=self._most,
                timeout=CONNECT_SECONDS,
                init=partial(register_vector, schema=schema),
                server_settings=SESSION,
            )

    async def close(self) -> None:
        """Wait for what is under way, then close all connections; cut off what does not end."""
        pool, self._pool = self._pool, None
        if pool is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await pool.close()

    async def run(self, work: Callable[[asyncpg.Connection], Awaitable[R]], seconds: float = ANSWER_SECONDS) -> R:
        """What `work` returns, given at most `seconds`. Where its connection is lost, it is run once more."""
        async with _translated(), asyncio.timeout(seconds):
            try:
                return await self._attempt(work)
            except _WORTH_ANOTHER:
                return await self._attempt(work)

    async def _attempt(self, work: Callable[[asyncpg.Connection], Awaitable[R]]) -> R:
        if self._pool is None:
            raise Unavailable("The vector index is closed.")
        async with self._pool.acquire(timeout=CONNECT_SECONDS) as connection:
            return await work(connection)


async def _make_extension(connection: asyncpg.Connection) -> str:
    """The schema in which pgvector is, made where it is missing."""
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except (asyncpg.UndefinedFileError, asyncpg.FeatureNotSupportedError, asyncpg.InsufficientPrivilegeError) as error:
        raise SettingsError(
            f"The database of vectors.url needs the extension pgvector: install it on the server, and run "
            f"CREATE EXTENSION vector as a user who may ({error})."
        ) from error
    found = await connection.fetchrow(
        "SELECT nspname, extversion FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace"
        " WHERE extname = 'vector'"
    )
    if tuple(int(part) for part in found["extversion"].split(".")[:2]) < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise SettingsError(
            f"The database of vectors.url has pgvector {found['extversion']}, and imgsim needs {needed}: install it "
            f"on the server, and run ALTER EXTENSION vector UPDATE."
        )
    return str(found["nspname"])


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (asyncpg.DataError, asyncpg.ProgramLimitExceededError, ValueError) as error:
        raise InvalidRequest(
            "The vector index cannot take this: a text holds NUL, is no valid Unicode or too long, or a number too"
            " large."
        ) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        words = str(error) or type(error).__name__
        raise Unavailable(f"PostgreSQL cannot be reached or refused the call: {words}") from error
