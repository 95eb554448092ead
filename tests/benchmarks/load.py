"""A light HTTP load: prepared requests over kept-alive connections, so that the client costs next to nothing."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np

LEAD = 128
"""Uploads after which the server's buffers are full, and what it takes in is what it finishes."""


@dataclass
class Timings:
    """What one load saw."""

    seconds: list[float] = field(default_factory=list)
    """Of each request, in the order of the answers."""
    statuses: dict[int, int] = field(default_factory=dict)
    elapsed: float = 0.0
    """Seconds from the first request to the last answer."""
    cpu_seconds: float = 0.0
    """Of the client's thread meanwhile, and so of all loads in it."""
    last: bytes = b""
    """The body of the last answer."""

    def percentile(self, percent: float) -> float:
        """Milliseconds."""
        return float(np.percentile(self.seconds, percent)) * 1e3 if self.seconds else float("nan")

    def percentiles(self, name: str) -> dict[str, float]:
        return {f"{name}_p50_ms": self.percentile(50), f"{name}_p99_ms": self.percentile(99)}

    def add(self, seconds: float, status: int, body: bytes) -> None:
        self.seconds.append(seconds)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.last = body


@dataclass(frozen=True, slots=True)
class UnderLoad:
    measured: Timings
    others: Timings
    others_per_second: float
    """While measured."""

    @property
    def cpu_ms(self) -> float:
        """Of the client, for each request."""
        return self.others.cpu_seconds / (len(self.measured.seconds) + len(self.others.seconds)) * 1e3


def upload_request(host: str, data: bytes, filename: str, collection: str = "default") -> bytes:
    boundary = b"----imgsim-benchmark"
    form = f"""--{boundary.decode()}\r
Content-Disposition: form-data; name="collection"\r
\r
{collection}\r
--{boundary.decode()}\r
Content-Disposition: form-data; name="file"; filename="{filename}"\r
Content-Type: image/jpeg\r
\r
"""
    parts = (form.encode(), data, b"\r\n--" + boundary + b"--\r\n")
    return _post(host, "/images/upload", b"multipart/form-data; boundary=" + boundary, *parts)


def json_request(host: str, path: str, body: bytes) -> bytes:
    return _post(host, path, b"application/json", body)


def get_request(host: str, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def _post(host: str, path: str, content_type: bytes, *parts: bytes) -> bytes:
    length = sum(len(part) for part in parts)
    start = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nContent-Type: ".encode()
    return b"".join((start, content_type, b"\r\n\r\n", *parts))


async def send_all(url: str, requests: Iterable[bytes], connections: int, pause: float = 0.0) -> Timings:
    """Send every request once over `connections` connections.

    Each sends its next when it has its answer and has waited for `pause` seconds. A request is taken from `requests`
    before its time starts.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    timings = Timings()
    waiting = iter(requests)
    began, cpu = time.perf_counter(), time.thread_time()

    async def client() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for request in waiting:
            started = time.perf_counter()
            writer.write(request)
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head.split(b" ", 2)[1])
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            timings.add(time.perf_counter() - started, status, body)
            if pause:
                await asyncio.sleep(pause)
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    timings.elapsed, timings.cpu_seconds = time.perf_counter() - began, time.thread_time() - cpu
    return timings


async def send_under_load(
    url: str, requests: Iterable[bytes], others: Iterable[bytes], connections: int, lead: int = LEAD
) -> UnderLoad:
    """`requests`, one at a time, while `others` keep `connections` more connections busy, `lead` of them ahead."""
    sent = 0
    steady, over = asyncio.Event(), asyncio.Event()

    def until_over() -> Iterator[bytes]:
        nonlocal sent
        for request in others:
            if over.is_set():
                return
            sent += 1
            if sent > lead:
                steady.set()
            yield request

    async with asyncio.TaskGroup() as group:
        load = group.create_task(send_all(url, until_over(), connections))
        await steady.wait()
        before = sent
        measured = await send_all(url, requests, 1)
        per_second = (sent - before) / measured.elapsed
        over.set()
    return UnderLoad(measured, load.result(), per_second)
