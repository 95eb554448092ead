"""The memory that uploads to S3 share while they are sent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from imgsim.core.errors import Overloaded


class Room:
    """`size` bytes, handed out in the order of asking; who waits longer than `seconds` is turned away.

    A server that takes requests and answers late would otherwise have every upload in memory at once.
    """

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        self._free = size
        self._turn = asyncio.Lock()
        self._given_back = asyncio.Event()

    @asynccontextmanager
    async def taken(self, size: int) -> AsyncIterator[None]:
        """`size` bytes (at most all there are) while the context lasts. ``Overloaded``."""
        try:
            async with asyncio.timeout(self._seconds), self._turn:
                while self._free < size:
                    self._given_back.clear()
                    await self._given_back.wait()
                self._free -= size
        except TimeoutError as error:
            raise Overloaded(
                f"The object store takes uploads too slowly: {self._size - self._free} bytes are on their way, and at "
                f"most {self._size} may be. Try later."
            ) from error
        try:
            yield
        finally:
            self._free += size
            self._given_back.set()
