"""An HTTP server that answers as a test wants, also with what no server should."""

import socketserver
import ssl
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.client import parse_headers
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""


Script = Callable[[Request], Iterable[bytes]]
"""The raw bytes of the answer, one piece after the other; then the connection is closed."""


def answer(body: bytes = b"", status: int = 200, **headers: str) -> bytes:
    """A whole answer; ``content_type="image/png"`` is the header ``content-type``."""
    given = {"content_length": str(len(body)), **headers}
    lines = [f"HTTP/1.1 {status} Said", *(f"{name.replace('_', '-')}: {value}" for name, value in given.items())]
    return "\r\n".join(lines).encode() + b"\r\nConnection: close\r\n\r\n" + body


class ScriptedServer:
    """Plays `script` for every request, on a free loopback port, in threads of its own. ``requests`` came in so far.

    With `tls` it speaks HTTPS.
    """

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.requests: list[Request] = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                method, path, _ = self.rfile.readline().decode("latin-1").split(" ", 2)
                headers = {name.lower(): value for name, value in parse_headers(self.rfile).items()}
                body = self.rfile.read(int(headers.get("content-length", 0)))
                request = Request(method, path, headers, body)
                outer.requests.append(request)
                for piece in outer.script(request):
                    self.wfile.write(piece)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Clients may go when they have seen enough."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
