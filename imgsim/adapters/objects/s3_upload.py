"""Sending an object to S3: by one request, or in parts where it is large."""

import asyncio
import io
import logging
import os
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, BinaryIO, TypeVar

from imgsim.adapters.objects import CHUNK_BYTES
from imgsim.adapters.objects.s3_errors import CALL_SECONDS, DRIVER_ERRORS
from imgsim.adapters.objects.s3_room import Room
from imgsim.core.threads import finished

T = TypeVar("T")

WHOLE_BYTES = 16 << 20
"""An object of at most this many bytes is sent by one request, a larger one in parts."""

_PART_BYTES = 8 << 20  # S3 wants 5 MiB at least, and takes 10,000 of them: objects of up to 78 GiB
_PARTS_AT_ONCE = 2
HELD_BYTES = (_PARTS_AT_ONCE + 2) * _PART_BYTES
"""What an upload holds in memory at most: the parts on their way, one that is being read, and the first."""

log = logging.getLogger("imgsim.objects")


@dataclass(frozen=True, slots=True)
class _Part:
    content: io.BytesIO  # its own: aiohttp would copy one that was made of bytes, in the event loop
    size: int
    checksum: str  # SHA-256 in base64

    def request(self) -> Mapping[str, Any]:
        """What a request that brings these bytes says of them."""
        large = self.size > CHUNK_BYTES  # as bytes it would be copied into the socket's buffer as a whole
        return {"Body": self.content if large else self.content.getvalue(), "ChecksumSHA256": self.checksum}


async def upload(client: Any, target: Mapping[str, Any], content_type: str, source: BinaryIO, room: Room) -> int:
    """Store all of `source` as the object `target` (``Bucket`` and ``Key``); return the bytes sent.

    Holds 32 MiB at most, and those in `room`: ``Overloaded`` where that stays full. Raises what the driver raises,
    and leaves no parts behind when it does.
    """
    size = await _in_thread(_size, source)
    async with room.taken(min(size, HELD_BYTES)):
        if size <= WHOLE_BYTES:
            return await _upload_whole(client, target, content_type, source)
        return await _upload_in_parts(client, target, content_type, source)


async def _upload_whole(client: Any, target: Mapping[str, Any], content_type: str, source: BinaryIO) -> int:
    whole = await _in_thread(_read_part, source, WHOLE_BYTES)
    async with asyncio.timeout(CALL_SECONDS):
        await client.put_object(**target, ContentType=content_type, **whole.request())
    return whole.size


async def _upload_in_parts(client: Any, target: Mapping[str, Any], content_type: str, source: BinaryIO) -> int:
    first = await _in_thread(_read_part, source, _PART_BYTES)
    async with asyncio.timeout(CALL_SECONDS):
        begun = await client.create_multipart_upload(**target, ContentType=content_type, ChecksumAlgorithm="SHA256")
    target = {**target, "UploadId": begun["UploadId"]}
    try:
        parts, size = await _upload_parts(client, target, source, first)
        async with asyncio.timeout(CALL_SECONDS):
            await client.complete_multipart_upload(**target, MultipartUpload={"Parts": parts})
    except BaseException:
        await _abort(client, target)
        raise
    return size


async def _upload_parts(
    client: Any, target: Mapping[str, Any], source: BinaryIO, first: _Part
) -> tuple[Sequence[Mapping[str, Any]], int]:
    places = asyncio.Semaphore(_PARTS_AT_ONCE)

    async def send(number: int, part: _Part) -> Mapping[str, Any]:
        async with asyncio.timeout(CALL_SECONDS):
            stored = await client.upload_part(**target, PartNumber=number, **part.request())
        places.release()
        return {"PartNumber": number, "ETag": stored["ETag"], "ChecksumSHA256": part.checksum}

    part, size = first, 0
    sent: list[asyncio.Task[Mapping[str, Any]]] = []
    try:
        async with asyncio.TaskGroup() as group:
            while part.size:
                await places.acquire()
                sent.append(group.create_task(send(len(sent) + 1, part)))
                size += part.size
                part = await _in_thread(_read_part, source, _PART_BYTES)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in sent], size


async def _abort(client: Any, target: Mapping[str, Any]) -> None:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            await client.abort_multipart_upload(**target)
    except DRIVER_ERRORS as error:
        log.warning("Parts of %s may be left in the bucket %s: %s", target["Key"], target["Bucket"], error)


async def _in_thread(function: Callable[..., T], *arguments: Any) -> T:
    return await finished(asyncio.get_running_loop().run_in_executor(None, function, *arguments))


def _size(source: BinaryIO) -> int:
    """Its bytes; then it stands at its start."""
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    return size


def _read_part(source: BinaryIO, size: int) -> _Part:
    """The next `size` bytes of `source`, fewer only at its end."""
    content = io.BytesIO()
    while piece := source.read(min(size - content.tell(), CHUNK_BYTES)):
        content.write(piece)
    digest = sha256(content.getbuffer()).digest()
    read = content.tell()
    content.seek(0)
    return _Part(content, read, b64encode(digest).decode())
