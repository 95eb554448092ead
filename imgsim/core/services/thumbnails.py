"""Giving out thumbnails, and making those that are missing."""

import asyncio
import io
import logging
from collections.abc import Callable
from pathlib import PurePath

from imgsim.core.errors import ObjectNotFound, Overloaded, Unavailable
from imgsim.core.models import Image, Picture, original_key
from imgsim.core.ports import ImageRepository, ObjectStore
from imgsim.core.services.ingest import ImageReader
from imgsim.core.thumbnails import CONTENT_TYPE, SIZES, ThumbnailSize

log = logging.getLogger("imgsim.thumbnails")

_AT_ONCE = 4
"""Originals that are held at once, in memory and whole."""
_MOST_WAITING = 1024

Encode = Callable[[Picture, int, int, int], bytes]
"""A picture as WebP of a width and a height, with so much effort."""


class ThumbnailService:
    def __init__(
        self, *, objects: ObjectStore, images: ImageRepository, reader: ImageReader, encode: Encode, url_seconds: int
    ) -> None:
        self._objects = objects
        self._images = images
        self._reader = reader
        self._encode = encode
        self._url_seconds = url_seconds
        self._making: dict[str, asyncio.Task[bytes]] = {}
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def get(self, image: Image, size: ThumbnailSize) -> str | bytes:
        """A presigned URL of the WebP where the store has one, else the WebP itself.

        Where it is missing (a stage has not run yet, or failed; the store lost it), it is made of the original, once
        for all who wait, and kept. Raises what ``ImageReader`` raises, ``ObjectNotFound`` without an original,
        ``Overloaded``.
        """
        sides = size.fit(image.width, image.height)
        size = next(each for each in SIZES if each.fit(image.width, image.height) == sides)  # of what is small already
        key = size.key(image.id)
        url = await self._objects.presign_get(key, self._url_seconds, f"{PurePath(image.filename).stem}.webp")
        if url is not None and await self._objects.exists(key):
            return url
        if url is None and (content := await self._stored(key)):
            return content
        return await self._made(image, size, key)

    async def _stored(self, key: str) -> bytes | None:
        try:
            content = b"".join([chunk async for chunk in self._objects.get(key)])
        except ObjectNotFound:
            return None
        return content if _is_whole(content) else None

    async def _made(self, image: Image, size: ThumbnailSize, key: str) -> bytes:
        task = self._making.get(key)
        if task is None:
            if len(self._making) >= _MOST_WAITING:
                raise Overloaded(f"{_MOST_WAITING} thumbnails wait to be made.")
            task = self._making[key] = asyncio.create_task(self._make(image, size, key), name=f"thumbnail {key}")
            task.add_done_callback(lambda _: self._making.pop(key))
        return await asyncio.shield(task)  # one who leaves does not take it from the others

    async def _make(self, image: Image, size: ThumbnailSize, key: str) -> bytes:
        async with self._turn:
            data = b"".join([chunk async for chunk in self._objects.get(original_key(image.id))])
            picture = await self._reader.decode(data, size.longest, urgent=True)
            content = await asyncio.to_thread(self._encode, picture, *size.fit(image.width, image.height), size.effort)
        await self._keep(image, key, content)
        return content

    async def _keep(self, image: Image, key: str, content: bytes) -> None:
        try:
            await self._objects.put(key, io.BytesIO(content), CONTENT_TYPE, durable=False)
            # After the put: who deleted the image before it may have looked for what to remove already.
            if not await self._images.get_many([image.id]):
                await self._objects.delete(key)
        except Unavailable as error:
            log.warning("the thumbnail %s is made, but not kept: %s", key, error)


def _is_whole(content: bytes) -> bool:
    """It was not synced, and a power cut can leave a file that is empty, short or of zeros (RFC 9649, 2.4)."""
    return content[:4] == b"RIFF" and int.from_bytes(content[4:8], "little") + 8 == len(content)
