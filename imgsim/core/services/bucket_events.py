"""Takes in what lands in buckets of others, as their servers tell of it."""

import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import BinaryIO, Protocol
from uuid import UUID

from imgsim.core.errors import (
    BrokenImage,
    Forbidden,
    ImgsimError,
    InvalidRequest,
    ObjectNotFound,
    TooLarge,
    TooManyPixels,
    UnsupportedImage,
)
from imgsim.core.services.ingest import IngestService

log = logging.getLogger("imgsim.bucket_events")

_FOR_GOOD: tuple[type[ImgsimError], ...] = (
    BrokenImage,
    InvalidRequest,
    ObjectNotFound,
    TooLarge,
    TooManyPixels,
    UnsupportedImage,
)
"""What no second attempt would change: the next event must not wait behind it."""


class BucketReader(Protocol):
    """Reads buckets that are not imgsim's own, as far as the settings name them."""

    def knows(self, bucket: str) -> bool:
        """Whether anything of `bucket` may be read."""
        ...

    def reason_to_skip(self, bucket: str, key: str) -> str | None:
        """Why this object of a bucket that is known is none to take in; None if it is one."""
        ...

    def open(self, bucket: str, key: str) -> AbstractAsyncContextManager[BinaryIO]:
        """The object as a file that lives as long as the context; some at a time.

        ``ObjectNotFound``, ``TooLarge``, ``UnsupportedImage`` by its first bytes, ``InvalidRequest`` where the server
        refuses it, ``Unavailable``.
        """
        ...


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one object."""

    source: str
    """``s3://bucket/key``"""
    outcome: str
    """``stored``, ``already-there`` or ``passed-over``."""
    image: UUID | None = None
    reason: str | None = None
    """Why it was passed over."""


class BucketEventService:
    def __init__(self, *, ingest: IngestService, buckets: BucketReader, collection: str) -> None:
        self._ingest = ingest
        self._buckets = buckets
        self._collection = collection

    def check(self, buckets: Sequence[str]) -> None:
        """``Forbidden`` where one of `buckets` is not among those that are taken in."""
        for bucket in buckets:
            if not self._buckets.knows(bucket):
                raise Forbidden(
                    f"The bucket {bucket[:80]!r} is none of those that are taken in (events_s3.sources, "
                    "IMGSIM_EVENTS_S3__SOURCES)."
                )

    async def take(self, bucket: str, key: str) -> Taken:
        """Store the object as an image; after that it is durable. Repeats store it once.

        What can never be an image is passed over. ``Unavailable`` and all else: try again.
        """
        source = f"s3://{bucket}/{key}"
        reason = self._buckets.reason_to_skip(bucket, key)
        if reason is not None:
            return Taken(source, "passed-over", reason=reason)
        try:
            async with self._buckets.open(bucket, key) as file:
                image = await self._ingest.upload(file, key, self._collection, metadata={"source": source})
        except _FOR_GOOD as error:
            log.warning("%s is passed over: %s", source, error)
            return Taken(source, "passed-over", reason=error.message)
        return Taken(source, "already-there" if image.duplicate else "stored", image.id)
