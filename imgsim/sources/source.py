"""What a bulk import reads from: items, one after the other, however many there are."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol, cast

from imgsim.core.errors import TooLarge
from imgsim.core.threads import finished

HEAD_BYTES = 64
"""How much of a file shows what it is."""

_IN_MEMORY = 1 << 20  # a file moves to disk when it grows beyond
_CHUNK_BYTES = 1 << 18

Opened = AbstractAsyncContextManager[BinaryIO]
"""A seekable file, open as long as the context."""


class NotAnImage(Exception):
    """Something that lies beside the images, and is passed over."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file to upload, and what is known about it."""

    label: str
    """Path, URL or the like: where a person finds it."""
    open: Callable[[], Opened]
    """Raises ``NotAnImage`` for what is passed over, and ``OSError`` or ``ImgsimError`` for what cannot be had."""
    filename: str = ""
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    collection: str | None = None
    """None: the one that the import names."""


class Source(Protocol):
    """``OSError`` or ``ImgsimError`` where there is nothing to read; what is broken later is an item that says so."""

    @property
    def label(self) -> str: ...

    def items(self) -> AsyncGenerator[Item, None]: ...

    def count(self) -> int | None:
        """How many items there will be, where that is known before the end. Blocks; errors as ``items``."""
        ...


class Buckets(Protocol):
    """Objects by URL: ``s3://bucket/key?endpoint=URL&region=NAME``. Errors are ``ImgsimError``."""

    def list(self, url: str) -> AsyncGenerator[str, None]:
        """The URLs of all objects whose key begins as `url` says."""
        ...

    def get(self, url: str) -> AsyncGenerator[bytes, None]:
        """The bytes of one object, in chunks. ``ObjectNotFound``."""
        ...


@dataclass(frozen=True, slots=True)
class Reach:
    """What a source may read, and by what."""

    max_bytes: int
    """The largest file that is taken (upload.max_bytes)."""
    begins_like_image: Callable[[bytes], bool]
    """Told by the first ``HEAD_BYTES``."""
    fetch: Callable[[str], Opened]
    """What is at an http(s) URL."""
    buckets: Buckets
    files: bool = True
    """Whether paths on this machine may be read. A server must not do that for a client."""
    s3: Sequence[str] | None = None
    """The only s3 URLs that may be read, with all that their keys are the beginning of; None: any."""
    stopping: Callable[[], bool] = lambda: False
    """Whether nobody wants more of it: what takes long to draw an item gives up then. Asked in threads."""


async def drawn(make: Callable[[], Iterable[Item]]) -> AsyncGenerator[Item, None]:
    """What the iterable gives, made and drawn from in threads: it may block."""
    items: Iterator[Item] = iter(await in_thread(make))
    try:
        while (item := await in_thread(lambda: next(items, None))) is not None:
            yield item
    finally:
        if close := getattr(items, "close", None):
            await in_thread(close)


async def in_thread(function: Callable[[], Any]) -> Any:
    """The result of `function`; a cancelled caller leaves when the thread has ended."""
    return await finished(asyncio.ensure_future(asyncio.to_thread(function)))


def opening(function: Callable[[], BinaryIO]) -> Callable[[], Opened]:
    """How an item opens what `function`, which may block, opens."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[BinaryIO]:
        file = await in_thread(function)
        with file:
            yield file

    return opened


def failing(label: str, error: Exception) -> Item:
    """An item that cannot be had."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[BinaryIO]:
        raise error
        yield

    return Item(label, opened)


class Spool:
    """Collects the chunks of one file, on disk where it is not small.

    Tells by the first of them whether it begins like an image, and does not read on beyond what is taken:
    ``NotAnImage`` (where `must_be` is False), ``TooLarge``.
    """

    def __init__(self, reach: Reach, must_be: bool) -> None:
        self._reach = reach
        self._must_be = must_be
        self._head: bytes | None = b""
        self._size = 0
        self.file = cast("BinaryIO", tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY))  # noqa: SIM115

    def write(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._head is not None:
            self._head += chunk[:HEAD_BYTES]
            if len(self._head) >= HEAD_BYTES:
                self._judge()
        if self._size > self._reach.max_bytes:
            raise TooLarge(f"The file has more than {self._reach.max_bytes} bytes (upload.max_bytes).")
        self.file.write(chunk)

    def end(self) -> BinaryIO:
        self._judge()
        self.file.seek(0)
        return self.file

    def _judge(self) -> None:
        if self._head is not None and not self._must_be and not self._reach.begins_like_image(self._head):
            raise NotAnImage
        self._head = None


def spooled(chunks: Iterable[bytes], reach: Reach, must_be: bool = False) -> BinaryIO:
    """`chunks` as a file at its start; errors as ``Spool`` and those of `chunks`, which are read no further then."""
    spool = Spool(reach, must_be)
    try:
        for chunk in chunks:
            spool.write(chunk)
        return spool.end()
    except BaseException:
        spool.file.close()
        raise


def read_chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """What `read` gives, to its end."""
    while chunk := read(_CHUNK_BYTES):
        yield chunk
