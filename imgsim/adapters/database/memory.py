"""The repository on dicts: for tests. What it holds lives as long as the instance."""

import time
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self
from uuid import UUID

import msgspec
import numpy as np

from imgsim.adapters.database.memory_duplicates import MemoryDuplicates
from imgsim.adapters.database.rows import json_of
from imgsim.core.errors import ImageNotFound, LeaseLost, WrongState
from imgsim.core.filters import MOST_TAGS
from imgsim.core.models import (
    STATE_OF_STAGE,
    Bell,
    CacheKey,
    CopyNote,
    DuplicateGroup,
    EmbeddingInfo,
    Image,
    ImageError,
    ImageFilter,
    ImageState,
    Reservation,
    Vector,
)


@dataclass(slots=True)
class _Row:
    image: Image
    due_at: float | None
    """Unix seconds from which someone may work on it: its time of retry, or the end of its lease. None: it rests."""
    owner: str | None = None
    failures: int = 0
    deleted: bool = False

    def change(self, **values: Any) -> Image:
        now = datetime.now(UTC)
        states = {**self.image.states, values["state"]: now} if "state" in values else self.image.states
        self.image = replace(self.image, updated_at=now, states=states, **values)
        return self.copy()

    def hand_back(self, due_at: float | None) -> None:
        self.owner, self.due_at = None, due_at

    def copy(self) -> Image:
        """The image as a caller may have it: changes to its lists and dicts stay outside."""
        return deepcopy(self.image)

    @property
    def overdue(self) -> bool:
        """Unfinished, and nobody is known to work on it."""
        return not self.deleted and self.due_at is not None and self.due_at <= time.time()

    @property
    def due(self) -> bool:
        return self.overdue and self.owner is None

    @property
    def lost(self) -> bool:
        return self.overdue and self.owner is not None

    @property
    def leased(self) -> bool:
        return self.owner is not None and self.due_at is not None and self.due_at > time.time()


@dataclass(slots=True)
class _CachedEmbedding:
    vector: Vector
    unused_since: float
    """Unix seconds of when it was cached, or when the last image with its bytes went."""


class MemoryImageRepository:
    """No method awaits anything, so each is a transaction."""

    def __init__(self) -> None:
        self._rows: dict[UUID, _Row] = {}
        self._reservations: dict[UUID, Reservation] = {}
        self._cache: dict[CacheKey, _CachedEmbedding] = {}
        self._duplicates = MemoryDuplicates()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Nothing to close."""

    async def ping(self) -> None:
        """Always there."""

    async def add(self, image: Image) -> Image:
        if existing := await self.find(image.collection, image.sha256):
            return replace(existing, duplicate=existing.id != image.id)
        if image.id in self._rows:
            raise WrongState(f"An image with the id {image.id} exists already, with other bytes or deleted.")
        kept = replace(
            image,
            tags=list(image.tags),
            metadata=_json(image.metadata),
            features=_json(image.features),
            created_at=image.created_at.astimezone(UTC),
            updated_at=image.updated_at.astimezone(UTC),
        )
        self._rows[image.id] = _Row(kept, due_at=None if image.at_rest else image.created_at.timestamp())
        return self._rows[image.id].copy()

    async def get(self, image_id: UUID) -> Image:
        return self._row(image_id).copy()

    async def get_many(self, image_ids: Sequence[UUID]) -> Mapping[UUID, Image]:
        return {row.image.id: row.copy() for row in self._alive(image_ids)}

    async def find(self, collection: str, sha256: str) -> Image | None:
        rows = (row for row in self._alive() if (row.image.collection, row.image.sha256) == (collection, sha256))
        return next((row.copy() for row in rows), None)

    async def list(self, where: ImageFilter, limit: int, before: UUID | None = None) -> Sequence[Image]:
        def fits(image: Image) -> bool:
            return (
                where.collection in (None, image.collection)
                and where.state in (None, image.state)
                and set(where.tags) <= set(image.tags)
                and (not where.any_tags or bool(set(where.any_tags) & set(image.tags)))
                and not set(where.no_tags) & set(image.tags)
                and (where.created_from is None or where.created_from <= image.created_at)
                and (where.created_to is None or image.created_at < where.created_to)
                and (before is None or image.id < before)
            )

        rows = [row for row in self._alive() if fits(row.image)]
        rows.sort(key=lambda row: row.image.id, reverse=True)
        return [row.copy() for row in rows[:limit]]

    async def collections(self, limit: int) -> Sequence[str]:
        return sorted({row.image.collection for row in self._alive()})[:limit]

    async def counts(self) -> Mapping[ImageState, int]:
        states = [row.image.state for row in self._alive()]
        return {state: states.count(state) for state in ImageState}

    async def update(
        self, image_id: UUID, tags: Sequence[str] | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Image:
        row = self._row(image_id)
        return row.change(
            tags=row.image.tags if tags is None else list(tags),
            metadata=row.image.metadata if metadata is None else _json(metadata),
        )

    async def add_tag(self, image_id: UUID, tag: str) -> Image:
        row = self._row(image_id)
        if tag in row.image.tags or len(row.image.tags) >= MOST_TAGS:
            return row.copy()
        return row.change(tags=[*row.image.tags, tag])

    # the life of a job

    async def mark_pending(self, image_ids: Sequence[UUID]) -> Sequence[Image]:
        rows = [row for row in self._alive(image_ids) if row.image.state is ImageState.CREATED]
        return [row.change(state=ImageState.PENDING) for row in rows]

    async def claim(
        self, image_ids: Sequence[UUID], owner: str, lease_seconds: float, stage: str, lost: bool = False
    ) -> Sequence[Image]:
        rows = [row for row in self._alive(image_ids) if (row.lost if lost else row.due)]
        for row in rows:
            row.owner, row.due_at = owner, time.time() + lease_seconds
            row.failures += 1
        state = STATE_OF_STAGE.get(stage, ImageState.PENDING)
        return [row.change(state=state, stage=stage, attempts=row.image.attempts + 1) for row in rows]

    async def renew(self, owner: str, image_ids: Sequence[UUID], lease_seconds: float) -> set[UUID]:
        rows = [row for row in self._alive(image_ids) if row.owner == owner]
        for row in rows:
            row.due_at = time.time() + lease_seconds
        return {row.image.id for row in rows}

    async def advance(self, image_id: UUID, attempt: int, stage: str, features: Mapping[str, Any]) -> Image:
        row = self._claimed(image_id, attempt)
        state = {"state": STATE_OF_STAGE[stage]} if stage in STATE_OF_STAGE else {}
        return row.change(stage=stage, **state, features=_json(features))

    async def finish(
        self, image_id: UUID, attempt: int, features: Mapping[str, Any], embedding: EmbeddingInfo | None
    ) -> Image:
        row = self._claimed(image_id, attempt)
        row.hand_back(due_at=None)
        return row.change(state=ImageState.DONE, stage=None, error=None, features=_json(features), embedding=embedding)

    async def fail(
        self, image_id: UUID, attempt: int, error: ImageError, retry_at: datetime | None, counts: bool = True
    ) -> Image:
        row = self._claimed(image_id, attempt)
        row.failures -= not counts
        row.hand_back(due_at=retry_at.timestamp() if retry_at else None)
        if retry_at is None:
            return row.change(state=ImageState.ERROR, stage=error.stage, error=error)
        return row.change(state=ImageState.PENDING, stage=None, error=error)

    async def failures(self, image_id: UUID) -> int:
        return self._row(image_id).failures

    async def release(self, owner: str) -> Sequence[UUID]:
        rows = [row for row in self._rows.values() if row.owner == owner]
        for row in rows:
            row.hand_back(due_at=time.time())  # of a tombstone, too: nobody works on it any more
            row.failures -= 1
            row.change(state=ImageState.PENDING, stage=None)
        return [row.image.id for row in rows if not row.deleted]

    async def end_leases(self) -> int:
        rows = [row for row in self._rows.values() if row.owner is not None]
        for row in rows:
            row.due_at = time.time()
            row.owner = None if row.deleted else row.owner
        return sum(not row.deleted for row in rows)

    async def due(self, limit: int) -> Sequence[Bell]:
        return [Bell(row.image.id, row.image.attempts) for row in self._longest_first() if row.due][:limit]

    async def lost(self, limit: int) -> Sequence[UUID]:
        return [row.image.id for row in self._longest_first() if row.lost][:limit]

    async def bury(self, max_attempts: int) -> Sequence[Image]:
        buried = []
        for row in [row for row in self._longest_first() if row.lost and row.failures >= max_attempts]:
            sentence = f"The process that worked on this image ended in each of {row.failures} attempts."
            error = ImageError(row.image.stage, "worker-lost", sentence, row.image.attempts)
            row.hand_back(due_at=None)
            buried.append(row.change(state=ImageState.ERROR, error=error))
        return buried

    async def retry(self, image_id: UUID) -> Image:
        row = self._row(image_id)
        if row.image.state is not ImageState.ERROR:
            raise WrongState(f"The image is {row.image.state}; only an image in error can be retried.")
        row.failures = 0
        row.hand_back(due_at=time.time())
        return row.change(state=ImageState.PENDING, stage=None, error=None)

    # uploads straight to the object store

    async def reserve(self, reservation: Reservation) -> None:
        kept = replace(reservation, tags=[*reservation.tags], metadata=_json(reservation.metadata))
        self._reservations.setdefault(reservation.id, kept)

    async def reservation(self, image_id: UUID) -> Reservation:
        if image_id not in self._reservations:
            raise ImageNotFound(f"No upload was announced for the id {image_id}.")
        return deepcopy(self._reservations[image_id])

    async def mark_confirmed(self, image_id: UUID, came_of_it: UUID) -> None:
        if image_id in self._reservations:
            self._reservations[image_id] = replace(self._reservations[image_id], image=came_of_it)

    async def unreserve(self, image_id: UUID) -> None:
        self._reservations.pop(image_id, None)

    async def expired_reservations(self, limit: int) -> Sequence[UUID]:
        expired = [(kept.expires_at, kept.id) for kept in self._reservations.values()]
        return [image_id for expires_at, image_id in sorted(expired) if expires_at <= datetime.now(UTC)][:limit]

    # duplicates

    async def note_copies(self, image_id: UUID, copies: Sequence[UUID]) -> None:
        there = {row.image.id for row in self._alive([image_id, *copies])}
        for other in copies:
            if {image_id, other} <= there:
                self._duplicates.join(image_id, other)

    async def copy_groups(
        self, limit: int, collection: str | None = None, after: UUID | None = None
    ) -> Sequence[DuplicateGroup]:
        images = (image for image in self._searchable() if collection in (None, image.collection))
        groups = self._duplicates.copies(images)
        return [group for group in groups if after is None or group.id > after][:limit]

    async def identical_groups(self, limit: int, after: str = "") -> Sequence[DuplicateGroup]:
        return self._duplicates.identical(image for image in self._searchable() if image.sha256 > after)[:limit]

    async def dismiss_group(self, group_id: UUID, images: Sequence[UUID] | None = None) -> None:
        self._duplicates.dismiss(group_id, self._searchable(), images)

    async def copy_notes(self, image_ids: Sequence[UUID]) -> Sequence[CopyNote]:
        return [note for row in self._alive(image_ids) if (note := self._duplicates.note(row.image.id))]

    async def keep_copy_notes(self, notes: Sequence[CopyNote]) -> None:
        there = {row.image.id for row in self._alive([note.image_id for note in notes])}
        for note in notes:
            if note.image_id in there:
                self._duplicates.keep(note)

    def _searchable(self) -> Sequence[Image]:
        """Oldest first."""
        images = (row.copy() for row in self._alive() if row.image.searchable)
        return sorted(images, key=lambda image: image.id)

    # delete

    async def entomb(self, image_id: UUID) -> Image:
        row = self._row(image_id)
        row.deleted = True
        return row.change(attempts=row.image.attempts + 1)

    async def tombstones(self, limit: int) -> Sequence[Image]:
        rows = [row for row in self._rows.values() if row.deleted and not row.leased]
        return [row.copy() for row in rows[:limit]]

    async def purge(self, image_id: UUID) -> None:
        row = self._rows.get(image_id)
        if row is None or not row.deleted:
            return
        del self._rows[image_id]
        self._duplicates.forget(image_id)
        for key, cached in self._cache.items():
            if key.sha256 == row.image.sha256:
                cached.unused_since = time.time()

    # the embedding cache

    async def cached_embedding(self, key: CacheKey) -> Vector | None:
        cached = self._cache.get(key)
        return None if cached is None else cached.vector.copy()

    async def cache_embedding(self, key: CacheKey, vector: Vector) -> None:
        self._cache.setdefault(key, _CachedEmbedding(vector.astype(np.float32), time.time()))

    async def sweep_cache(self, keep_seconds: float) -> int:
        used = {row.image.sha256 for row in self._rows.values()}
        until = time.time() - keep_seconds
        swept = [key for key, cached in self._cache.items() if key.sha256 not in used and cached.unused_since <= until]
        for key in swept:
            del self._cache[key]
        return len(swept)

    # the pieces

    def _alive(self, image_ids: Iterable[UUID] | None = None) -> Iterable[_Row]:
        """The rows of `image_ids` (None: all), each once, that are no tombstones."""
        wanted = self._rows if image_ids is None else dict.fromkeys(image_ids)
        return [row for image_id in wanted if (row := self._rows.get(image_id)) and not row.deleted]

    def _longest_first(self) -> Iterable[_Row]:
        """The unfinished rows, longest due first."""
        rows = [row for row in self._alive() if row.due_at is not None]
        return sorted(rows, key=lambda row: (row.due_at or 0.0, row.image.id))

    def _row(self, image_id: UUID) -> _Row:
        row = self._rows.get(image_id)
        if row is None or row.deleted:
            raise ImageNotFound(f"No image has the id {image_id}.")
        return row

    def _claimed(self, image_id: UUID, attempt: int) -> _Row:
        """The row under the fence of a claim."""
        row = self._rows.get(image_id)
        if row is None or row.deleted or row.owner is None or row.image.attempts != attempt:
            raise LeaseLost(f"Attempt {attempt} no longer holds the image {image_id}.")
        return row


def _json(value: Mapping[str, Any]) -> Any:
    """`value` as it comes back from a database."""
    return msgspec.json.decode(json_of(value))
