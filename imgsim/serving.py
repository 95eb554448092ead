"""Runs the HTTP server: from a bound socket to a clean stop."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from imgsim.core.errors import SettingsError
from imgsim.settings import Settings

log = logging.getLogger("imgsim.serving")

_SECONDS_TO_FINISH_REQUESTS = 10
_LARGEST_HEAD = 1 << 16


class _Protocol(HttpToolsProtocol):
    """Closes connections whose head grows without end: the parser keeps all of it, and knows no limit."""

    _head_bytes = 0
    _in_head = True

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._head_bytes += len(data)
        if self._in_head and self._head_bytes > _LARGEST_HEAD:
            self.transport.close()

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()


class _Server(uvicorn.Server):
    """Leaves the signals to `serve`: uvicorn's own handling would end the process before its work is handed back."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def check_exposure(settings: Settings) -> None:
    """An open server listens on loopback only, unless that is allowed explicitly. ``SettingsError``."""
    if settings.auth.keys or settings.auth.allow_open or _is_loopback(settings.host):
        return
    raise SettingsError(
        f"Listening on {settings.host} would open imgsim to everyone who can reach it. "
        "Set auth.keys (IMGSIM_AUTH__KEYS), or allow it with auth.allow_open = true."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(settings: Settings) -> tuple[socket.socket, str]:
    """A listening socket and the URL under which it is reached. ``SettingsError`` when the address is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listening = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        option = "--host" if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL else "--port"
        # Python adds the address to the words of some errors; it stands there already.
        reason = str(error.strerror or error).partition(" (while ")[0]
        raise SettingsError(
            f"Cannot listen on {settings.host}:{settings.port}: {reason}. Try another {option}."
        ) from error
    host = f"[{settings.host}]" if family == socket.AF_INET6 else settings.host
    return listening, f"http://{host}:{listening.getsockname()[1]}"


async def serve(
    app: ASGIApp,
    listening: socket.socket,
    *,
    on_start: Callable[[], None],
    on_stop: Callable[[], None],
    on_hurry: Callable[[], None],
) -> None:
    """Answer requests until SIGINT or SIGTERM.

    `on_start` is called when both are heeded; `on_stop` ends the streams that would go on forever. A
    second signal, also one after the return, calls `on_hurry`; a third ends the process as signals do.
    """
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_SECONDS_TO_FINISH_REQUESTS,
    )
    server = _Server(config, on_start)

    loop = asyncio.get_running_loop()
    both = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int) -> None:
        log.info("stopping%s (%s)", " at once" if server.should_exit else "", signal.Signals(number).name)
        if server.should_exit:
            server.force_exit = True
            on_hurry()
            for each in both:
                loop.remove_signal_handler(each)
        server.should_exit = True
        on_stop()

    for number in both:
        loop.add_signal_handler(number, stop, number)
    await server.serve(sockets=[listening])
