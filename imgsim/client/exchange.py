"""The one place where blocking and asynchronous I/O differ.

All of the client is written once, as coroutines over an ``Exchange``. Over ``Asynchronous`` they run in an event
loop. Over ``Blocking`` none of them ever suspends, so that ``run`` brings one to its end without a loop.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Protocol, TypeVar

import httpx

T = TypeVar("T")


class Exchange(Protocol):
    @property
    def http(self) -> httpx.Client | httpx.AsyncClient: ...

    async def open(self, request: httpx.Request, follow_redirects: bool) -> httpx.Response:
        """Send `request`; the answer's body is still to be read, and the answer to be closed. ``httpx.HTTPError``."""
        ...

    async def read(self, response: httpx.Response) -> bytes: ...

    def chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]: ...

    async def release(self, response: httpx.Response) -> None: ...

    async def sleep(self, seconds: float) -> None: ...

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run what may wait for a disk."""
        ...

    async def close(self) -> None: ...


class Asynchronous:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def open(self, request: httpx.Request, follow_redirects: bool) -> httpx.Response:
        return await self.http.send(request, stream=True, follow_redirects=follow_redirects)

    async def read(self, response: httpx.Response) -> bytes:
        return await response.aread()

    async def chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        async for chunk in response.aiter_bytes():
            yield chunk

    async def release(self, response: httpx.Response) -> None:
        await response.aclose()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.to_thread(function, *arguments)

    async def close(self) -> None:
        await self.http.aclose()


class Blocking:
    """Coroutines that end without having waited for anything but the call itself."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    async def open(self, request: httpx.Request, follow_redirects: bool) -> httpx.Response:
        return self.http.send(request, stream=True, follow_redirects=follow_redirects)

    async def read(self, response: httpx.Response) -> bytes:
        return response.read()

    async def chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        for chunk in response.iter_bytes():
            yield chunk

    async def release(self, response: httpx.Response) -> None:
        response.close()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 (there is no event loop)

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        return function(*arguments)

    async def close(self) -> None:
        self.http.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine over ``Blocking``."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("A coroutine of the blocking client waited for an event loop.")


def iterate(items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """What an asynchronous generator over ``Blocking`` gives."""
    try:
        while True:
            try:
                item = run(items.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        run(items.aclose())
