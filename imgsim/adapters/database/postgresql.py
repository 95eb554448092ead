"""The repository in PostgreSQL, for any number of processes.

``?statement_cache_size=0`` in the URL is for poolers that hand every transaction another connection and
do not follow prepared statements (PgBouncer before 1.21). All else in the URL is asyncpg's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import asyncpg
from piccolo.engine.postgres import PostgresEngine
from piccolo.querystring import QueryString

from imgsim.adapters.database.migrate import migrate, migrate_if_new
from imgsim.adapters.database.session import Dialect, Rows
from imgsim.adapters.database.tables import Tables, bind_tables
from imgsim.core.errors import InvalidRequest, SettingsError, Unavailable, WrongState
from imgsim.settings import Settings, mask_url

T = TypeVar("T")

_SECONDS_TO_CONNECT = 3.0
_SECONDS_TO_ANSWER = 5.0
"""For each of: a free connection of the pool, and one statement."""
_SECONDS_TO_CANCEL = 0.5
"""After that the connection of a statement without an answer is thrown away."""

_UNREADABLE = (
    "The setting database.url cannot be read as postgresql://user:password@host:port/name; "
    "characters such as '/', '#', '@' and ':' in the password must be percent-encoded."
)

_CONNECTION_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    ConnectionError,
)
_IN_EACH_OTHERS_WAY = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

_NOT_SYNCED = ", (SELECT set_config('synchronous_commit', 'off', true))"
"""In a RETURNING list: for its transaction alone, and without a round trip of its own."""


class _Engine(PostgresEngine):
    async def check_version(self) -> None:
        """Not at all: Piccolo would connect when the engine is made, and block the event loop meanwhile."""


class PostgreSQLSession:
    dialect = Dialect(
        lock=" FOR UPDATE",
        lock_free=" FOR UPDATE SKIP LOCKED",
        lock_table="LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE",
        arrays=True,
        entered="COALESCE(states, jsonb_build_object()) || jsonb_build_object('%s', {})",
        one_more_tag="tags || to_jsonb({}::text)",
        has_tag="tags @> to_jsonb({}::text)",
        count_of_tags="jsonb_array_length(tags)",
    )

    def __init__(self, url: str, pool_min: int, pool_max: int) -> None:
        self._name = mask_url(url).partition("?")[0]
        self._pool_sizes = {"min_size": pool_min, "max_size": pool_max}
        self._options = _connect_options(url)
        # Without a pool: each migration has a connection of its own, whose statements may take their time.
        self._engine = _Engine(config=self._options)

    async def open(self) -> Tables:
        with self._translated("opened"):
            try:
                self._pool = await asyncpg.create_pool(
                    **self._options, **self._pool_sizes, command_timeout=_SECONDS_TO_ANSWER, reset=_nothing_to_reset
                )
            except ValueError:
                raise SettingsError(_UNREADABLE) from None  # which may quote the password
        return bind_tables(self._engine)

    async def close(self) -> None:
        try:
            async with asyncio.timeout(_SECONDS_TO_ANSWER):
                await self._pool.close()
        except (TimeoutError, *_CONNECTION_LOST):
            self._pool.terminate()

    async def migrate(self) -> list[str]:
        with self._translated("migrated"):
            return await migrate(self._engine)

    async def migrate_if_new(self) -> None:
        with self._translated("migrated"):
            await migrate_if_new(self._engine)

    def now(self, plus_seconds: float = 0.0) -> QueryString:
        """The server's clock: those of two machines may differ by more than a lease."""
        return QueryString("now() + {} * interval '1 second'", plus_seconds) if plus_seconds else _NOW

    async def execute(self, *statements: QueryString, synced: bool = True) -> Sequence[Rows]:
        compiled = [statement.compile_string(engine_type="postgres") for statement in statements]
        if not synced:
            compiled = [(sql + _NOT_SYNCED, arguments) for sql, arguments in compiled]

        async def run(connection: asyncpg.Connection) -> Sequence[Rows]:
            return [await connection.fetch(sql, *arguments) for sql, arguments in compiled]

        async def run_together(connection: asyncpg.Connection) -> Sequence[Rows]:
            async with connection.transaction():
                return await run(connection)

        with self._translated("written"):
            return await self._maybe_twice(run if len(compiled) == 1 else run_together)

    async def select(self, statement: QueryString, seconds: float | None = None) -> Rows:
        sql, arguments = statement.compile_string(engine_type="postgres")

        async def run(connection: asyncpg.Connection) -> Rows:
            rows: Rows = await connection.fetch(sql, *arguments, timeout=seconds)
            return rows

        with self._translated("read"):
            return await self._maybe_twice(run)

    async def _maybe_twice(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """A server that has restarted, or two transactions in each other's way, are no reason to fail."""
        try:
            return await self._once(work)
        except ValueError:  # an InterfaceError too, where asyncpg cannot encode a value
            raise
        except _CONNECTION_LOST:
            await self._pool.expire_connections()
        except _IN_EACH_OTHERS_WAY:
            pass
        return await self._once(work)

    async def _once(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        connection = await self._pool.acquire(timeout=_SECONDS_TO_ANSWER)
        try:
            return await work(connection)
        finally:
            await self._pool.release(connection, timeout=_SECONDS_TO_CANCEL)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (asyncpg.DataError, asyncpg.ProgramLimitExceededError, ValueError) as error:
            raise InvalidRequest(f"The database cannot hold this: {_reason(error)}.") from error
        except asyncpg.IntegrityConstraintViolationError as error:
            raise WrongState(f"A row stands in the way: {_reason(error)}.") from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            raise Unavailable(f"The database {self._name} cannot be {what}: {_reason(error)}.") from error


_NOW = QueryString("now()")


def postgresql_session(settings: Settings) -> PostgreSQLSession:
    pool = settings.database
    if pool.pool_min > pool.pool_max:
        raise SettingsError(f"database.pool_min ({pool.pool_min}) is more than database.pool_max ({pool.pool_max}).")
    return PostgreSQLSession(settings.part_url("database"), pool.pool_min, pool.pool_max)


def _connect_options(url: str) -> dict[str, Any]:
    options: dict[str, Any] = {"dsn": url, "timeout": _SECONDS_TO_CONNECT}
    try:
        parts = urlsplit(url)
    except ValueError:
        raise SettingsError(_UNREADABLE) from None
    query = dict(parse_qsl(parts.query))
    if "statement_cache_size" in query:
        options["statement_cache_size"] = _cache_size(query.pop("statement_cache_size"))
        options["dsn"] = parts._replace(query=urlencode(query, quote_via=quote)).geturl()
    return options


def _cache_size(text: str) -> int:
    if not text.isdecimal():
        raise SettingsError(f"The statement_cache_size in database.url must be a number, 0 or more (got {text!r}).")
    return int(text)


async def _nothing_to_reset(connection: asyncpg.Connection) -> None:
    """No statement here changes its connection: what asyncpg would ask after each is a round trip for nothing."""


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error).partition("\n")[0].rstrip(".")
