"""A light HTTP load: prepared requests over kept-alive connections, so that the client costs next to nothing."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np


@dataclass
class Timings:
    """Seconds of each request, in the order of the answers."""

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    def percentile(self, percent: float) -> float:
        """Milliseconds."""
        return float(np.percentile(self.seconds, percent)) * 1e3 if self.seconds else float("nan")


def upload_request(host: str, data: bytes, filename: str) -> bytes:
    boundary = b"----imgsim-benchmark"
    head = f'Content-Disposition: form-data; name="file"; filename="{filename}"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = b"--" + boundary + b"\r\n" + head.encode() + data + b"\r\n--" + boundary + b"--\r\n"
    start = f"POST /images/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
    return start.encode() + b"Content-Type: multipart/form-data; boundary=" + boundary + b"\r\n\r\n" + body


def get_request(host: str, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


async def send_all(url: str, requests: Sequence[bytes], connections: int) -> Timings:
    """Send every request once over `connections` connections; each sends its next when it has its answer."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    timings = Timings()
    waiting = iter(requests)

    async def client() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for request in waiting:
            started = time.perf_counter()
            writer.write(request)
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head.split(b" ", 2)[1])
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            timings.seconds.append(time.perf_counter() - started)
            timings.statuses[status] = timings.statuses.get(status, 0) + 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return timings
