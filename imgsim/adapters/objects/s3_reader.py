"""Objects of buckets that are not imgsim's own: those that the settings name, and no others."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import BinaryIO, cast

from imgsim.adapters.image_headers import sniff
from imgsim.adapters.objects.s3_buckets import S3Buckets
from imgsim.adapters.objects.s3_location import S3Location
from imgsim.core.errors import Overloaded, SettingsError, TooLarge, Unavailable, UnsupportedImage
from imgsim.core.models import DERIVED, ORIGINALS

_AT_ONCE = 4
_SECONDS_TO_WAIT = 10.0
_IN_MEMORY = 1 << 20
_TELLING = 64  # the first bytes say what a file is


class S3Reader:
    """Reads below `locations` alone; `own` is where imgsim's objects lie, which are never read.

    `max_bytes` is the largest object. Four are read, and worked on by whoever opened them, at a time.
    """

    def __init__(
        self, buckets: S3Buckets, locations: Sequence[S3Location], own: S3Location | None, max_bytes: int
    ) -> None:
        self._buckets = buckets
        self._locations = locations
        self._own = [f"{own.bucket}/{own.prefix}{folder}" for folder in (ORIGINALS, DERIVED)] if own else []
        self._max_bytes = max_bytes
        self._turns = asyncio.Semaphore(_AT_ONCE)

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
                await self._read(location, key, file)
                yield file
        except SettingsError as error:  # no credentials
            raise Unavailable(error.message) from error
        finally:
            self._turns.release()

    def _location(self, bucket: str, key: str) -> S3Location | None:
        return next((each for each in self._locations if each.bucket == bucket and key.startswith(each.prefix)), None)

    async def _read(self, location: S3Location, key: str, file: BinaryIO) -> None:
        size, head = 0, b""
        chunks = self._buckets.read(location.bucket, key, location.endpoint, location.region)
        async with aclosing(chunks):
            async for chunk in chunks:
                size += len(chunk)
                if size > self._max_bytes:
                    raise TooLarge(f"The object has more than {self._max_bytes} bytes (upload.max_bytes).")
                file.write(chunk)
                head += chunk[: _TELLING - len(head)]
                if len(head) == _TELLING and sniff(head) is None:  # the rest need not be read
                    break
        if sniff(head) is None:
            raise UnsupportedImage()
        file.seek(0)
