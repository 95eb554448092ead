"""Connections to Redis, and the translation of its errors, for the job queue and the event relay."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import RedisError

from imgsim.core.errors import SettingsError, Unavailable

CONNECT_SECONDS = 0.7
"""How long connecting may take; an upload waits for it when Redis has gone."""

REDIS_ERRORS = (RedisError, OSError)
"""What the client raises while Redis is away or refuses; timeouts are among them."""


def redis_options(url: str) -> dict[str, Any]:
    """How to connect to ``redis://user:password@host:port/number``, or ``rediss://`` for TLS.

    Options of redis-py may follow as a query: ``?ssl_ca_certs=/etc/ca.pem``. A certificate must carry the
    name of the host, unless ``ssl_check_hostname=false``. ``SettingsError``.
    """
    try:
        options: dict[str, Any] = dict(parse_url(url))
        if options.get("connection_class") is SSLConnection:
            options.setdefault("ssl_check_hostname", options.get("ssl_cert_reqs", "required") == "required")
        options = {"host": "localhost", "port": 6379, "db": 0, "socket_connect_timeout": CONNECT_SECONDS, **options}
        ConnectionPool(**options).make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError):  # their messages may hold a piece of the password
        raise SettingsError(
            "The setting jobs.url is no URL of a Redis. One looks like redis://user:password@host:6379/0, "
            "with special characters in the password percent-encoded."
        ) from None
    return options


def redis_pool(url: str, seconds: float, **options: Any) -> ConnectionPool:
    """Connections whose answers may each take `seconds`. ``SettingsError``."""
    return ConnectionPool(**{"socket_timeout": seconds, **redis_options(url), **options})


def redis_address(url: str) -> str:
    """Host and port, for messages."""
    options = redis_options(url)
    return f"{options['host']}:{options['port']}"


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Errors of the client as ``Unavailable``."""
    try:
        yield
    except REDIS_ERRORS as error:
        raise Unavailable(f"Redis at {address} cannot be used: {str(error) or 'no answer in time'}.") from error


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel `tasks`, which talk to Redis, and wait for them.

    More than once: redis-py sends within ``asyncio.wait_for``, which before Python 3.12 forgets a
    cancellation that comes just as the sending is done.
    """
    while waiting := [task for task in tasks if not task.done()]:
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting, timeout=0.1)
