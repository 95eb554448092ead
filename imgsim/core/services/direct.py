"""Uploads that go straight to the object store: announced, stored with a presigned request, confirmed."""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, cast
from uuid import UUID

from imgsim.core.errors import (
    BrokenImage,
    ImageNotFound,
    NoPresignedUploads,
    NotUploaded,
    ObjectNotFound,
    TooLarge,
    TooManyPixels,
    Unavailable,
    UnsupportedImage,
    UploadMismatch,
)
from imgsim.core.models import Image, OnCopy, PresignedPut, Reservation, new_image_id, original_key
from imgsim.core.ports import ImageRepository, ObjectStore
from imgsim.core.services.ingest import (
    ImageReader,
    IngestService,
    new_image,
    valid_collection,
    valid_filename,
    valid_metadata,
    valid_sha256,
    valid_tags,
)

_IN_MEMORY = 1 << 20  # a file moves to disk when it grows beyond
_LONGEST_CHECK = 300.0
_GRACE = timedelta(seconds=2 * _LONGEST_CHECK)
"""How much longer a reservation is kept than it is honoured: nobody sweeps what is being confirmed."""


@dataclass(frozen=True, slots=True)
class Announced:
    """What to do next: ``put`` the bytes, then confirm ``id`` before ``expires_at``."""

    id: UUID
    put: PresignedPut
    expires_at: datetime


class DirectUploadService:
    def __init__(
        self,
        *,
        ingest: IngestService,
        objects: ObjectStore,
        images: ImageRepository,
        reader: ImageReader,
        max_bytes: int,
        url_seconds: int,
        keep_seconds: float,
    ) -> None:
        self._ingest = ingest
        self._objects = objects
        self._images = images
        self._reader = reader
        self._max_bytes = max_bytes
        self._url_seconds = url_seconds
        self._keep_seconds = keep_seconds

    async def announce(
        self,
        sha256: str,
        content_type: str,
        size: int,
        filename: str = "",
        collection: str = "default",
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        on_copy: str = OnCopy.ACCEPT,
    ) -> Announced | Image:
        """How to store these bytes; or the existing image, ``duplicate=True``, where `collection` has them already.

        Raises ``InvalidRequest``, ``TooLarge``, ``UnsupportedImage``, ``NoPresignedUploads``.
        """
        sha256 = valid_sha256(sha256)
        if size > self._max_bytes:
            raise TooLarge(f"The upload has {size} bytes; at most {self._max_bytes} are taken (upload.max_bytes).")
        if content_type not in self._reader.content_types:
            known = ", ".join(sorted(self._reader.content_types))
            raise UnsupportedImage(f"{content_type[:80]!r} is not a type that is read here: {known}.")
        expires_at = datetime.now(UTC) + timedelta(seconds=max(self._keep_seconds, self._url_seconds))
        reservation = Reservation(
            id=new_image_id(),
            collection=valid_collection(collection),
            sha256=sha256,
            filename=valid_filename(filename),
            content_type=content_type,
            bytes=size,
            tags=valid_tags(tags),
            metadata=valid_metadata(metadata or {}),
            expires_at=expires_at + _GRACE,
            on_copy=self._ingest.valid_on_copy(on_copy),
        )
        existing = await self._images.find(collection, sha256)
        if existing is not None:
            return replace(existing, duplicate=True)
        put = await self._objects.presign_put(
            original_key(reservation.id), self._url_seconds, content_type, size, sha256
        )
        if put is None:
            raise NoPresignedUploads()
        await self._images.reserve(reservation)
        return Announced(reservation.id, put, expires_at)

    async def confirm(self, image_id: UUID) -> Image:
        """Check what was stored against what was announced, and take it in as ``upload`` does. Repeats are no error.

        Bytes that are not as announced, or no image, are removed: ``UploadMismatch``, and what
        ``ImageReader`` raises. ``ImageNotFound`` for what was not announced, ran out, or was deleted since it was
        confirmed; ``NotUploaded``. After ``Unavailable`` what was stored is still there, to be confirmed again.

        The reservation stays until its time is over, since the presigned request may be sent again: what that
        stores without a row is removed with it.
        """
        try:
            reservation = await self._images.reservation(image_id)
        except ImageNotFound:
            return await self._images.get(image_id)  # confirmed long ago
        if reservation.image is not None:
            return _answer(reservation, await self._images.get(reservation.image))
        if reservation.expires_at - _GRACE < datetime.now(UTC):
            raise ImageNotFound(f"The announced upload {image_id} has run out; announce it again.")
        try:
            async with asyncio.timeout(_LONGEST_CHECK):
                image = await self._confirm(reservation)
        except TimeoutError as error:
            raise Unavailable(f"What was stored could not be checked within {_LONGEST_CHECK:g} s.") from error
        await self._images.mark_confirmed(image_id, image.id)
        return image

    async def _confirm(self, reservation: Reservation) -> Image:
        key = original_key(reservation.id)
        existing = await self._images.find(reservation.collection, reservation.sha256)
        if existing is not None:  # confirmed without an answer, or it came by another way
            if existing.id != reservation.id:
                await self._objects.delete(key)
            return _answer(reservation, existing)
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spooled:
            file = cast("BinaryIO", spooled)
            try:
                await self._download(key, file, reservation)
                found = await self._reader.inspect(file)
                if found.content_type != reservation.content_type:
                    raise UploadMismatch(
                        f"What was stored is {found.content_type}, not {reservation.content_type} as announced."
                    )
            except (UploadMismatch, BrokenImage, TooManyPixels, UnsupportedImage):
                await self._objects.delete(key)  # so that it can be stored again
                raise
        image = new_image(
            reservation.id,
            reservation.sha256,
            reservation.bytes,
            found,
            collection=reservation.collection,
            filename=reservation.filename,
            tags=reservation.tags,
            metadata=reservation.metadata,
            on_copy=reservation.on_copy,
        )
        return await self._ingest.accept(image, found.picture)

    async def _download(self, key: str, into: BinaryIO, reservation: Reservation) -> None:
        """The announced bytes, never more of them than announced."""
        try:
            async with aclosing(self._objects.get(key, 0, reservation.bytes + 1)) as chunks:
                async for chunk in chunks:
                    into.write(chunk)
        except ObjectNotFound as error:
            raise NotUploaded() from error
        if into.tell() != reservation.bytes:
            raise UploadMismatch(f"What was stored does not have {reservation.bytes} bytes as announced.")
        if await self._reader.sha256(into) != reservation.sha256:
            raise UploadMismatch("What was stored does not have the announced SHA-256.")


def _answer(reservation: Reservation, image: Image) -> Image:
    return replace(image, duplicate=image.id != reservation.id)
