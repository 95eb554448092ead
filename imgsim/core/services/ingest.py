"""From an upload to a durable row and a ringing bell."""

import asyncio
import json
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, BinaryIO, Protocol
from uuid import UUID

from imgsim.core.errors import ImgsimError, InvalidRequest, TooLarge, Unavailable
from imgsim.core.events import EventBus
from imgsim.core.filters import MOST_TAGS
from imgsim.core.models import (
    Bell,
    Image,
    ImageEvent,
    ImageState,
    Inspection,
    OnCopy,
    Picture,
    new_image_id,
    original_key,
)
from imgsim.core.pictures import PictureBuffer
from imgsim.core.ports import ImageRepository, JobQueue, ObjectStore
from imgsim.core.precedence import Precedence

log = logging.getLogger("imgsim.ingest")

_COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_TAG, _LONGEST_FILENAME = 255, 255
_LONGEST_WAIT_FOR_ROOM = 0.25  # seconds that an upload is slowed down at most while the pipeline is behind
_LARGEST_METADATA, _DEEPEST_METADATA = 65_536, 32


class ImageReader(Protocol):
    """Reads hostile bytes off the event loop. All raise ``UnsupportedImage``, ``BrokenImage``, ``TooManyPixels``."""

    @property
    def content_types(self) -> Collection[str]:
        """The types that are read, as in ``image/jpeg``."""
        ...

    async def sha256(self, file: BinaryIO) -> str:
        """Hex digest of the whole file."""
        ...

    async def inspect(self, file: BinaryIO, urgent: bool = False) -> Inspection:
        """Decode `file`, or say why that cannot be done; `urgent`: before all that is not."""
        ...

    async def decode(self, data: bytes, min_side: int = 0, urgent: bool = False) -> Picture:
        """The picture in `data`, both sides at least `min_side` where the image has that many pixels."""
        ...


class IngestService:
    """Takes an upload. When ``upload`` returns, bytes and row are durable."""

    def __init__(
        self,
        *,
        objects: ObjectStore,
        images: ImageRepository,
        jobs: JobQueue,
        reader: ImageReader,
        events: EventBus,
        pictures: PictureBuffer,
        precedence: Precedence,
        max_bytes: int,
        finds_copies: bool,
    ) -> None:
        self._objects = objects
        self._images = images
        self._jobs = jobs
        self._reader = reader
        self._events = events
        self._pictures = pictures
        self._precedence = precedence
        self._max_bytes = max_bytes
        self._finds_copies = finds_copies
        self._rung: list[UUID] = []
        self._marking: asyncio.Task[None] | None = None

    async def upload(
        self,
        file: BinaryIO,
        filename: str = "",
        collection: str = "default",
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        sha256: str | None = None,
        on_copy: str = OnCopy.ACCEPT,
    ) -> Image:
        """Store `file` and queue it; return the image, with ``duplicate=True`` where `collection` had
        these bytes already. `sha256`: the hex digest of `file`, where the caller has it.

        Raises ``InvalidRequest``, ``TooLarge``, and what ``ImageReader`` raises.
        """
        collection = valid_collection(collection)
        tags = valid_tags(tags)
        metadata = valid_metadata(metadata or {})
        on_copy = self.valid_on_copy(on_copy)
        size = file.seek(0, os.SEEK_END)
        if size > self._max_bytes:
            raise TooLarge(f"The upload has {size} bytes; at most {self._max_bytes} are taken (upload.max_bytes).")
        sha256 = sha256 or await self._reader.sha256(file)
        existing = await self._images.find(collection, sha256)
        if existing is not None:
            return replace(existing, duplicate=True)
        async with self._pictures.room(_LONGEST_WAIT_FOR_ROOM):
            await self._precedence.let_pass()
            found = await self._reader.inspect(file)
            image = new_image(
                new_image_id(),
                sha256,
                size,
                found,
                collection=collection,
                filename=filename,
                tags=tags,
                metadata=metadata,
                on_copy=on_copy,
            )
            await self._objects.put(original_key(image.id), file, image.content_type)
            return await self.accept(image, found.picture)

    def valid_on_copy(self, text: str) -> OnCopy:
        """``InvalidRequest`` also for what cannot be done here."""
        return valid_on_copy(text, self._finds_copies)

    async def accept(self, image: Image, picture: Picture) -> Image:
        """Add and queue `image`, whose bytes are stored already; where its collection has them, remove
        them again and return the existing image.

        After ``Unavailable`` the bytes stay: the row may be there, or be on its way in a server that was too slow
        to answer.
        """
        self._pictures.put(image.id, picture)  # before the row, which the pipeline may take at once
        try:
            stored = await self._images.add(image)
        except BaseException:
            self._pictures.pop(image.id)
            raise
        if stored.duplicate:  # somebody was faster
            self._pictures.pop(image.id)
            await self._objects.delete(original_key(image.id))
            return stored
        self._events.publish(ImageEvent.of(image))
        await self._ring(image)
        return image

    async def _ring(self, image: Image) -> None:
        try:
            await self._jobs.enqueue([Bell(image.id, image.attempts)])
        except Unavailable as error:
            log.warning("image %s stays created until the queue returns: %s", image.id, error)
            return
        # Noted behind the answer's back, for all that rang meanwhile at once: nobody waits for it.
        self._rung.append(image.id)
        if self._marking is None or self._marking.done():
            self._marking = asyncio.create_task(self._mark_pending(), name="mark pending")

    async def _mark_pending(self) -> None:
        while self._rung:
            rung, self._rung = self._rung, []
            try:
                for image in await self._images.mark_pending(rung):
                    self._events.publish(ImageEvent.of(image))
            except ImgsimError as error:
                log.warning("%d images stay created until they are worked on: %s", len(rung), error)

    async def settle(self) -> None:
        """Return when nothing is under way any more; for a process that stops."""
        if self._marking is not None:
            await self._marking


def new_image(
    image_id: UUID,
    sha256: str,
    size: int,
    found: Inspection,
    *,
    collection: str,
    filename: str,
    tags: Sequence[str],
    metadata: Mapping[str, Any],
    on_copy: OnCopy = OnCopy.ACCEPT,
) -> Image:
    """An image that has just come in, as the reader found it."""
    now = datetime.now(UTC)
    return Image(
        id=image_id,
        collection=collection,
        state=ImageState.CREATED,
        stage=None,
        duplicate=False,
        sha256=sha256,
        filename=valid_filename(filename),
        content_type=found.content_type,
        bytes=size,
        width=found.width,
        height=found.height,
        tags=tags,
        metadata=metadata,
        attempts=0,
        error=None,
        embedding=None,
        features={},
        created_at=now,
        updated_at=now,
        on_copy=on_copy,
    )


def valid_on_copy(text: str, finds_copies: bool = True) -> OnCopy:
    """`finds_copies`: whether somebody looks for them."""
    try:
        on_copy = OnCopy(text)
    except ValueError as error:
        known = ", ".join(OnCopy)
        raise InvalidRequest(f"{text[:80]!r} is nothing that on_copy can be: {known}.") from error
    if on_copy is not OnCopy.ACCEPT and not finds_copies:
        raise InvalidRequest(f"on_copy={on_copy} needs the plugin copies, which is off here (plugins.disabled).")
    return on_copy


def valid_collection(name: str) -> str:
    if not _COLLECTION.fullmatch(name):
        raise InvalidRequest(
            f"{name[:120]!r} cannot name a collection: 1 to 100 letters, digits, dots, dashes and underscores, "
            "the first a letter or digit."
        )
    return name


def valid_sha256(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise InvalidRequest(f"{text[:80]!r} is no SHA-256: 64 digits, 0 to 9 and a to f.")
    return text


def valid_tags(tags: Sequence[str]) -> list[str]:
    """Without repeats, in the order given."""
    tags = list(dict.fromkeys(tags))
    if len(tags) > MOST_TAGS:
        raise InvalidRequest(f"An image has at most {MOST_TAGS} tags, not {len(tags)}.")
    for tag in tags:
        if not isinstance(tag, str) or not 1 <= len(tag) <= _LONGEST_TAG or not _storable(tag):
            raise InvalidRequest(f"A tag is a text of 1 to {_LONGEST_TAG} characters, not {str(tag)[:80]!r}.")
    return tags


def valid_metadata(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(metadata, Mapping):
        raise InvalidRequest("The metadata must be a JSON object.")
    _check_json(metadata, _DEEPEST_METADATA)
    try:
        size = len(json.dumps(metadata, allow_nan=False))
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"The metadata cannot be written as JSON: {error}.") from error
    if size > _LARGEST_METADATA:
        raise InvalidRequest(f"The metadata has {size} bytes as JSON; at most {_LARGEST_METADATA} are taken.")
    return metadata


def _check_json(value: Any, levels: int) -> None:
    """What some database, or some client's JSON reader, could not take back."""
    if levels == 0:
        raise InvalidRequest(f"The metadata is nested deeper than {_DEEPEST_METADATA} levels.")
    if isinstance(value, str) and not _storable(value):
        raise InvalidRequest("The metadata has a character that cannot be stored (NUL or half of a surrogate pair).")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_json(key, levels - 1)
            _check_json(inner, levels - 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_json(inner, levels - 1)


def valid_filename(name: str) -> str:
    """A label, never a path: control characters and folders are dropped."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(c for c in name if c.isprintable())
    return name.encode("utf-8", "ignore").decode("utf-8")[:_LONGEST_FILENAME]


def _storable(text: str) -> bool:
    """PostgreSQL takes no NUL, and no driver takes lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in text
