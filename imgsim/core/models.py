"""What imgsim talks about. These dataclasses go over the wire as they are."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""A decoded picture: ``(height, width, 3)`` uint8, sRGB, upright (EXIF orientation applied)."""

DECODING = "srgb@1"
"""Version of how bytes become a ``Picture``: the part of a cached embedding's key that is no model's."""

Vector = NDArray[np.float32]
"""An embedding: ``(dimensions,)`` float32 of unit length."""

Vectors = NDArray[np.float32]
"""A batch of embeddings: ``(n, dimensions)`` float32, rows of unit length."""

Scalar = str | int | float | bool | None
"""A JSON value that is no object and no list."""


class ImageState(StrEnum):
    """Where an image stands: ``created → pending → embedding → indexing → done``, or ``error``."""

    CREATED = "created"  # bytes and row are stored
    PENDING = "pending"  # a job has been queued
    EMBEDDING = "embedding"  # the stage ``embed`` runs
    INDEXING = "indexing"  # the stage ``index`` runs
    DONE = "done"
    ERROR = "error"  # rests here until ``retry``


class OnCopy(StrEnum):
    """What to do with an upload that turns out to be a copy of an image in its collection."""

    ACCEPT = "accept"
    FLAG = "flag"  # gets the tag ``copy``
    REJECT = "reject"  # ends ``done``, not searchable


class Match(StrEnum):
    """What two images have in common."""

    IDENTICAL = "identical"  # all bytes
    COPY = "copy"  # one is the other, changed: scaled, cut, turned, compressed, drawn on
    SIMILAR = "similar"  # what they show


STATE_OF_STAGE: Mapping[str, ImageState] = {"embed": ImageState.EMBEDDING, "index": ImageState.INDEXING}
"""The stages that show in ``state``; all others leave it as it is and show in ``stage`` only."""


@dataclass(frozen=True, slots=True)
class ImageError:
    """Why the last attempt failed."""

    stage: str | None
    type: str
    """Machine-readable and stable: an ImgsimError's ``code``, ``stage-failed``, ``timeout`` or ``worker-lost``."""
    message: str
    attempts: int


@dataclass(frozen=True, slots=True)
class EmbeddingInfo:
    model: str
    """Model id with its weights revision, as in ``efficientnet-lite0@1``."""
    dimensions: int


@dataclass(frozen=True, slots=True)
class Image:
    """One uploaded image. ``attempts`` counts every claim ever made and is the fence of the running one."""

    id: UUID
    collection: str
    state: ImageState
    stage: str | None
    duplicate: bool
    sha256: str
    filename: str
    content_type: str
    bytes: int
    width: int
    height: int
    tags: Sequence[str]
    metadata: Mapping[str, Any]
    attempts: int
    error: ImageError | None
    embedding: EmbeddingInfo | None
    features: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    on_copy: OnCopy = OnCopy.ACCEPT
    states: Mapping[ImageState, datetime] = field(default_factory=dict)
    """When it last entered each state that it was in, in their order. Left out, what the other fields know."""

    def __post_init__(self) -> None:
        times = {**(self.states or {self.state: self.updated_at}), ImageState.CREATED: self.created_at}
        object.__setattr__(self, "states", {state: times[state] for state in ImageState if state in times})

    @property
    def at_rest(self) -> bool:
        """Nobody works on it any more, unless it is retried."""
        return self.state in (ImageState.DONE, ImageState.ERROR)

    @property
    def searchable(self) -> bool:
        """Done, and not rejected by a stage: its vector is in the index."""
        return self.state is ImageState.DONE and self.embedding is not None


class Bell(NamedTuple):
    """What rings for an image: its id, and the ``attempts`` its row had. A bell for a past attempt means nothing."""

    id: UUID
    attempts: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """An upload straight to the object store that was announced. It outlives being confirmed: bytes can still come."""

    id: UUID
    """The id that the image will have."""
    collection: str
    sha256: str
    filename: str
    content_type: str
    bytes: int
    tags: Sequence[str]
    metadata: Mapping[str, Any]
    expires_at: datetime
    """After this the reservation may be removed, and what lies in the object store without a row."""
    image: UUID | None = None
    """The image that came of it, once it was confirmed: of this id, or another one with the same bytes."""
    on_copy: OnCopy = OnCopy.ACCEPT


@dataclass(frozen=True, slots=True)
class PresignedPut:
    """A request that stores one object: ``PUT url`` with exactly these headers."""

    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ImageFilter:
    """Which images to list. ``None`` and empty mean: any."""

    collection: str | None = None
    state: ImageState | None = None
    tags: Sequence[str] = ()
    """All of them must be there."""
    any_tags: Sequence[str] = ()
    """At least one of them must be there."""
    no_tags: Sequence[str] = ()
    """None of them may be there."""
    created_from: datetime | None = None
    """This or later."""
    created_to: datetime | None = None
    """Earlier than this."""


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """Which points to search, as ``ImageFilter`` says it. ``None`` and empty mean: any."""

    collection: str | None = None
    tags: Sequence[str] = ()
    any_tags: Sequence[str] = ()
    no_tags: Sequence[str] = ()
    created_from: datetime | None = None
    created_to: datetime | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    """Keys of the metadata's top level, and the values that they must have."""


@dataclass(frozen=True, slots=True)
class Point:
    """What the vector index keeps about one image."""

    id: UUID
    vector: Vector
    collection: str
    tags: Sequence[str] = ()
    created_at: datetime | None = None
    """None: no date range has it."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, image: Image, vector: Vector) -> "Point":
        return cls(image.id, vector, image.collection, image.tags, image.created_at, image.metadata)


@dataclass(frozen=True, slots=True)
class Example:
    """An image to search by, and how much it counts beside the others."""

    id: UUID
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer of the vector index: ``score`` is the cosine similarity, -1 to 1."""

    id: UUID
    score: float


@dataclass(frozen=True, slots=True)
class SearchHit:
    image: Image
    score: float
    percentile: float | None = None
    """How many of 100 random pairs of images are less alike than this; None where that is not known."""
    match: Match = Match.SIMILAR


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """Best first, ties by id. ``next_cursor`` is None on the last page."""

    model: str
    results: Sequence[SearchHit]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Two searchable images or more, oldest first: with the same bytes, or each a copy of another one among them."""

    id: UUID
    match: Match
    images: Sequence[Image]


@dataclass(frozen=True, slots=True)
class CopyNote:
    """What a repository knows of an image as a duplicate, for another one to keep."""

    image_id: UUID
    group: UUID | None
    """Of copies, by its id."""
    dismissals: frozenset[UUID]
    """Images that have one in common are no duplicates of each other."""


@dataclass(frozen=True, slots=True)
class DuplicatePage:
    """Copies first, then identical bytes. ``next_cursor`` is None on the last page."""

    groups: Sequence[DuplicateGroup]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class ImagePage:
    """Newest first."""

    images: Sequence[Image]
    next_cursor: str | None


class CacheKey(NamedTuple):
    """What makes two embeddings the same computation."""

    sha256: str
    model: str
    preprocessing: str


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    key: str
    bytes: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the door found in an upload that it could decode. ``width`` and ``height`` in pixels, upright."""

    content_type: str
    width: int
    height: int
    picture: Picture = field(repr=False)


@dataclass(frozen=True, slots=True)
class ImageEvent:
    """One state change, as ``/events`` tells it."""

    id: UUID
    collection: str
    state: str
    """An ImageState, or ``deleted``."""
    stage: str | None
    error: ImageError | None
    at: datetime

    @classmethod
    def of(cls, image: Image) -> "ImageEvent":
        return cls(image.id, image.collection, image.state.value, image.stage, image.error, image.updated_at)


def new_image_id() -> UUID:
    """A UUID of version 7 (RFC 9562, 5.7): 48 bits of Unix milliseconds, then random bits.

    Ids sort by creation time, so the id alone is the order and the cursor of a list, and rows
    that are inserted together lie together.
    """
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    return UUID(int=value)


ORIGINALS, DERIVED = "originals/", "derived/"
"""What all keys of our objects begin with."""


def least_id_at(moment: datetime, plus: timedelta = timedelta(0)) -> UUID:
    """No id that ``new_image_id`` makes at ``moment + plus`` or later is below this one."""
    milliseconds = int((moment.timestamp() + plus.total_seconds()) * 1000)
    return UUID(int=min(max(milliseconds, 0), 2**48 - 1) << 80)


def original_key(image_id: UUID) -> str:
    """The object key of an image's bytes. Spread over 256 folders by the id's last, random byte."""
    text = str(image_id)
    return f"{ORIGINALS}{text[-2:]}/{text}"


def derived_prefix(image_id: UUID) -> str:
    """Where stages keep what they make of an image; deleted with it."""
    text = str(image_id)
    return f"{DERIVED}{text[-2:]}/{text}/"


def identical_group_id(sha256: str) -> UUID:
    """The id of the group of images with these bytes: the first half of their digest."""
    return UUID(hex=sha256[:32])
