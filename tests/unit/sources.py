"""How the unit tests read a source: in memory, with nothing behind it but what they give."""

import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, BinaryIO

from imgsim.core.errors import ImgsimError, ObjectNotFound
from imgsim.sources import Item, Reach, Source
from imgsim.sources.source import NotAnImage

MAGIC = b"\xff\xd8\xff"
"""What these tests take for the beginning of an image."""

PASSED = "passed over"


class MemoryBuckets:
    def __init__(self, objects: Mapping[str, bytes]) -> None:
        self._objects = objects

    async def list(self, url: str) -> AsyncGenerator[str, None]:
        for each in self._objects:
            if each.startswith(url.partition("?")[0]):
                yield each

    async def get(self, url: str) -> AsyncGenerator[bytes, None]:
        if url not in self._objects:
            raise ObjectNotFound(f"No object has the key {url}.")
        yield self._objects[url]


def reach(
    max_bytes: int = 1000, urls: Mapping[str, bytes] | None = None, s3: Mapping[str, bytes] | None = None, **more: Any
) -> Reach:
    @asynccontextmanager
    async def fetch(url: str) -> AsyncIterator[BinaryIO]:
        yield io.BytesIO((urls or {})[url])

    return Reach(max_bytes, lambda head: head.startswith(MAGIC), fetch, MemoryBuckets(s3 or {}), **more)


async def items_of(source: Source) -> Sequence[Item]:
    return [item async for item in source.items()]


async def outcome(item: Item) -> bytes | str:
    """The bytes, ``PASSED``, or why they cannot be had."""
    try:
        async with item.open() as file:
            return file.read()
    except NotAnImage:
        return PASSED
    except (ImgsimError, OSError) as error:
        return str(error)


async def outcomes(source: Source) -> dict[str, bytes | str]:
    """By label; of a source, one item after the other, as they come."""
    found = {}
    async for item in source.items():
        assert item.label not in found
        found[item.label] = await outcome(item)
    return found


def opener(data: bytes) -> Callable[[], BinaryIO]:
    return lambda: io.BytesIO(data)


class Pieces(io.RawIOBase):
    """A file that is made while it is read, so that it may be larger than memory."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = next(self._pieces, b"")
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
