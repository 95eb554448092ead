"""Reads objects of buckets that are not imgsim's own, which may have any key."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, BinaryIO, Self, cast

from imgsim.adapters.image_headers import sniff
from imgsim.adapters.objects import CHUNK_BYTES
from imgsim.adapters.objects.s3_client import connect, open_session, region_of
from imgsim.adapters.objects.s3_errors import CALL_SECONDS, translated
from imgsim.adapters.objects.s3_location import S3Location
from imgsim.core.errors import Overloaded, TooLarge, UnsupportedImage
from imgsim.core.models import DERIVED, ORIGINALS

_AT_ONCE = 4
_SECONDS_TO_WAIT = 10.0
_IN_MEMORY = 1 << 20
_TELLING = 64  # the first bytes say what a file is


class S3Reader:
    """Reads below `locations` alone; `own` is where imgsim's objects lie, which are never read.

    `max_bytes` is the largest object. Four are read, and worked on by whoever opened them, at a time.
    """

    def __init__(self, locations: Sequence[S3Location], own: S3Location | None, max_bytes: int) -> None:
        self._locations = locations
        self._own = [f"{own.bucket}/{own.prefix}{folder}" for folder in (ORIGINALS, DERIVED)] if own else []
        self._max_bytes = max_bytes
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            session = await open_session() if self._locations else None
            self._clients: Mapping[S3Location, Any] = {
                each: await opening.enter_async_context(connect(session, each.endpoint, region_of(each, session)))
                for each in self._locations
            }
            self._opened = opening.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._opened.aclose()

    def knows(self, bucket: str) -> bool:
        return any(each.bucket == bucket for each in self._locations)

    def reason_to_skip(self, bucket: str, key: str) -> str | None:
        if self._location(bucket, key) is None:
            return "No prefix of events_s3.sources begins this key."
        if any(f"{bucket}/{key}".startswith(own) for own in self._own):
            return "This is an object of imgsim's own."
        return "This is a folder." if key.endswith("/") else None

    @asynccontextmanager
    async def open(self, bucket: str, key: str) -> AsyncGenerator[BinaryIO, None]:
        location = self._location(bucket, key)
        if location is None:
            raise LookupError(f"{bucket}/{key} is not to be read")
        try:
            async with asyncio.timeout(_SECONDS_TO_WAIT):
                await self._turns.acquire()
        except TimeoutError as error:
            raise Overloaded(f"{_AT_ONCE} objects are being taken in, and more have to wait. Try later.") from error
        try:
            with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spooled:
                file = cast("BinaryIO", spooled)
                await self._read(self._clients[location], bucket, key, file)
                yield file
        finally:
            self._turns.release()

    def _location(self, bucket: str, key: str) -> S3Location | None:
        return next((each for each in self._locations if each.bucket == bucket and key.startswith(each.prefix)), None)

    async def _read(self, client: Any, bucket: str, key: str, file: BinaryIO) -> None:
        async with translated(bucket, CALL_SECONDS, key):
            response = await client.get_object(Bucket=bucket, Key=key)
        body, size, head = response["Body"], 0, b""
        async with body:  # closes the connection where this ends early
            if response["ContentLength"] > self._max_bytes:
                raise self._too_large(response["ContentLength"])
            while chunk := await self._chunk(body, bucket, key):
                size += len(chunk)
                if size > self._max_bytes:
                    raise self._too_large(size)
                file.write(chunk)
                head += chunk[: _TELLING - len(head)]
                if len(head) == _TELLING and sniff(head) is None:  # the rest need not be read
                    break
        if sniff(head) is None:
            raise UnsupportedImage()
        file.seek(0)

    async def _chunk(self, body: Any, bucket: str, key: str) -> bytes:
        async with translated(bucket, CALL_SECONDS, key):
            chunk: bytes = await body.read(CHUNK_BYTES)
        return chunk

    def _too_large(self, size: int) -> TooLarge:
        return TooLarge(f"The object has {size} bytes; at most {self._max_bytes} are taken (upload.max_bytes).")
