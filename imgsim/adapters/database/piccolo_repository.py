"""ImageRepository on Piccolo tables; what differs between the engines lies in `Session`."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol, Self, TypeVar
from uuid import UUID

import numpy as np
from piccolo.columns import Column, Where
from piccolo.columns.combination import And
from piccolo.query.functions import Count
from piccolo.querystring import QueryString

from imgsim.adapters.database.rows import image_of, row_of
from imgsim.adapters.database.tables import Tables
from imgsim.core.errors import ImageNotFound, LeaseLost, WrongState
from imgsim.core.models import (
    STATE_OF_STAGE,
    CacheKey,
    EmbeddingInfo,
    Image,
    ImageError,
    ImageFilter,
    ImageState,
    Vector,
)

T = TypeVar("T")
Values = dict[Column | str, Any]

_SWEPT_AT_ONCE = 1000


class Session(Protocol):
    """How one engine opens, migrates, writes and reads; translates its driver's errors."""

    async def open(self) -> Tables: ...

    async def close(self) -> None: ...

    async def migrate_if_new(self) -> None:
        """Make the tables of a new database; ``Unavailable`` where an old one waits for ``imgsim migrate``."""
        ...

    async def write(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run `operation`, maybe twice, in a transaction; return once it is durable."""
        ...

    async def read(self, query: Awaitable[T]) -> T: ...


class PiccoloImageRepository:
    """The truth about every image, in two tables and a third for the embedding cache."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def __aenter__(self) -> Self:
        tables = await self._session.open()
        await self._session.migrate_if_new()
        self._image, self._tag, self._embedding = tables.image, tables.tag, tables.embedding
        self._columns = self._image.all_columns()
        # The same as `*self._columns`, which Piccolo would put together anew for every query, at 0.2 ms.
        self._all = QueryString(", ".join(f'"{column._meta.name}"' for column in self._columns))
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    async def ping(self) -> None:
        await self._session.read(self._image.select(self._image.id).limit(1).run())

    # rows

    async def add(self, image: Image) -> Image:
        async def insert() -> bool:
            # Looked up first: ON CONFLICT cannot name a partial index on every engine.
            if await self._image.select(self._image.id).where(self._same_bytes(image)).run():
                return False
            await self._image.insert(self._image(**row_of(image))).run()
            await self._add_tags(image.id, image.tags)
            return True

        if await self._session.write(insert):
            return image
        existing = await self.find(image.collection, image.sha256)
        # Deleted in the meantime: then it is no duplicate any more.
        return replace(existing, duplicate=True) if existing else await self.add(image)

    async def get(self, image_id: UUID) -> Image:
        images = await self._select(self._image.id == image_id)
        if not images:
            raise ImageNotFound(f"No image has the id {image_id}.")
        return images[0]

    async def get_many(self, image_ids: Sequence[UUID]) -> Mapping[UUID, Image]:
        if not image_ids:
            return {}
        return {image.id: image for image in await self._select(self._image.id.is_in(list(image_ids)))}

    async def find(self, collection: str, sha256: str) -> Image | None:
        images = await self._select(self._image.collection == collection, self._image.sha256 == sha256)
        return images[0] if images else None

    async def list(self, where: ImageFilter, limit: int, before: UUID | None = None) -> Sequence[Image]:
        conditions: Any = [
            self._image.id.is_in(self._tag.select(self._tag.image).where(self._tag.tag == tag)) for tag in where.tags
        ]
        if where.collection is not None:
            conditions.append(self._image.collection == where.collection)
        if where.state is not None:
            conditions.append(self._image.state == where.state.value)
        if before is not None:
            conditions.append(self._image.id < before)
        return await self._select(*conditions, limit=limit, newest_first=True)

    async def counts(self) -> Mapping[ImageState, int]:
        query = self._image.select(self._image.state, Count()).where(self._alive).group_by(self._image.state)
        rows = {row["state"]: row["count"] for row in await self._session.read(query.run())}
        return {state: rows.get(state.value, 0) for state in ImageState}

    async def update(
        self, image_id: UUID, tags: Sequence[str] | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Image:
        values: Values = {self._image.updated_at: _now()}
        if tags is not None:
            values[self._image.tags] = json.dumps(list(tags))
        if metadata is not None:
            values[self._image.metadata] = json.dumps(metadata)

        async def update() -> Sequence[Image]:
            images = await self._update(values, self._image.id == image_id, self._alive)
            if images and tags is not None:
                await self._tag.delete().where(self._tag.image == image_id).run()
                await self._add_tags(image_id, tags)
            return images

        return _one(await self._session.write(update), ImageNotFound(f"No image has the id {image_id}."))

    # the life of a job

    async def mark_pending(self, image_ids: Sequence[UUID]) -> Sequence[Image]:
        if not image_ids:
            return []
        return await self._change(
            {self._image.state: ImageState.PENDING.value},
            self._image.id.is_in(list(image_ids)),
            self._image.state == ImageState.CREATED.value,
            self._alive,
        )

    async def claim(self, image_ids: Sequence[UUID], owner: str, lease_seconds: float, stage: str) -> Sequence[Image]:
        if not image_ids:
            return []
        return await self._change(
            {
                self._image.state: STATE_OF_STAGE.get(stage, ImageState.PENDING).value,
                self._image.stage: stage,
                self._image.attempts: self._image.attempts + 1,
                self._image.failures: self._image.failures + 1,
                self._image.owner: owner,
                self._image.due_at: _now(lease_seconds),
            },
            self._image.id.is_in(list(image_ids)),
            self._image.due_at <= _now(),
            self._alive,
        )

    async def renew(self, owner: str, image_ids: Sequence[UUID], lease_seconds: float) -> set[UUID]:
        if not image_ids:
            return set()

        async def renew() -> Sequence[Image]:
            return await self._update(
                {self._image.due_at: _now(lease_seconds)},
                self._image.id.is_in(list(image_ids)),
                self._image.owner == owner,
                self._alive,
            )

        return {image.id for image in await self._session.write(renew)}

    async def advance(self, image_id: UUID, attempt: int, stage: str) -> Image:
        values: Values = {self._image.stage: stage}
        if stage in STATE_OF_STAGE:
            values[self._image.state] = STATE_OF_STAGE[stage].value
        return await self._change_claimed(image_id, attempt, values)

    async def finish(
        self, image_id: UUID, attempt: int, features: Mapping[str, Any], embedding: EmbeddingInfo | None
    ) -> Image:
        return await self._change_claimed(
            image_id,
            attempt,
            {
                self._image.state: ImageState.DONE.value,
                self._image.stage: None,
                self._image.error: None,
                self._image.features: json.dumps(features),
                self._image.model: embedding.model if embedding else None,
                self._image.dimensions: embedding.dimensions if embedding else None,
                self._image.owner: None,
                self._image.due_at: None,
            },
        )

    async def fail(
        self, image_id: UUID, attempt: int, error: ImageError, retry_at: datetime | None, counts: bool = True
    ) -> Image:
        values: Values = {
            self._image.state: (ImageState.PENDING if retry_at else ImageState.ERROR).value,
            self._image.stage: None if retry_at else error.stage,
            self._image.error: json.dumps(asdict(error)),
            self._image.owner: None,
            self._image.due_at: retry_at,
        }
        if not counts:
            values[self._image.failures] = self._image.failures - 1
        return await self._change_claimed(image_id, attempt, values)

    async def failures(self, image_id: UUID) -> int:
        query = self._image.select(self._image.failures).where(self._image.id == image_id, self._alive)
        rows = await self._session.read(query.run())
        if not rows:
            raise ImageNotFound(f"No image has the id {image_id}.")
        return int(rows[0]["failures"])

    async def release(self, owner: str | None) -> Sequence[UUID]:
        values: Values = {
            self._image.state: ImageState.PENDING.value,
            self._image.stage: None,
            self._image.owner: None,
            self._image.due_at: _now(),
        }
        mine = self._image.owner.is_not_null()
        if owner is not None:
            mine = self._image.owner == owner
            values[self._image.failures] = self._image.failures - 1

        # Tombstones too: nobody works on them any more.
        async def release() -> Sequence[Image]:
            released = await self._update(values, mine, self._alive)
            await self._update(values, mine)
            return released

        return [image.id for image in await self._session.write(release)]

    async def due(self, limit: int) -> Sequence[UUID]:
        query = (
            self._image.select(self._image.id)
            .where(self._image.due_at <= _now(), self._alive)
            .order_by(self._image.due_at)
            .order_by(self._image.id)
            .limit(limit)
        )
        return [row["id"] for row in await self._session.read(query.run())]

    async def bury(self, max_attempts: int) -> Sequence[Image]:
        async def bury() -> Sequence[Image]:
            lost = (
                self._image.due_at <= _now(),
                self._image.failures >= max_attempts,
                self._alive,
            )
            buried: list[Image] = []
            for row in await self._image.select(self._all).where(*lost).run():
                image = image_of(row)
                error = ImageError(
                    image.stage,
                    "worker-lost",
                    f"The process that worked on this image ended in each of {row['failures']} attempts.",
                    image.attempts,
                )
                values: Values = {
                    self._image.state: ImageState.ERROR.value,
                    self._image.error: json.dumps(asdict(error)),
                    self._image.owner: None,
                    self._image.due_at: None,
                    self._image.updated_at: _now(),
                }
                fence = self._image.attempts == image.attempts
                buried += await self._update(values, self._image.id == image.id, fence, *lost)
            return buried

        return await self._session.write(bury)

    async def retry(self, image_id: UUID) -> Image:
        images = await self._change(
            {
                self._image.state: ImageState.PENDING.value,
                self._image.stage: None,
                self._image.error: None,
                self._image.failures: 0,
                self._image.due_at: _now(),
            },
            self._image.id == image_id,
            self._image.state == ImageState.ERROR.value,
            self._alive,
        )
        if not images:
            image = await self.get(image_id)
            raise WrongState(f"The image is {image.state}; only an image in error can be retried.")
        return images[0]

    # delete

    async def entomb(self, image_id: UUID) -> Image:
        images = await self._change(
            {self._image.attempts: self._image.attempts + 1, self._image.deleted_at: _now()},
            self._image.id == image_id,
            self._alive,
        )
        return _one(images, ImageNotFound(f"No image has the id {image_id}."))

    async def tombstones(self, limit: int) -> Sequence[Image]:
        query = (
            self._image.select(self._all)
            .where(
                self._image.deleted_at.is_not_null(),
                self._image.owner.is_null() | (self._image.due_at <= _now()),
            )
            .order_by(self._image.deleted_at)
            .limit(limit)
        )
        return [image_of(row) for row in await self._session.read(query.run())]

    async def purge(self, image_id: UUID) -> None:
        async def purge() -> None:
            rows = await (
                self._image.delete()
                .where(self._image.id == image_id, self._image.deleted_at.is_not_null())
                .returning(self._image.sha256)
                .run()
            )
            for row in rows:
                await self._tag.delete().where(self._tag.image == image_id).run()
                others = await self._image.count().where(self._image.sha256 == row["sha256"]).run()
                if not others:
                    await (
                        self._embedding.update({self._embedding.orphaned_at: _now()})
                        .where(self._embedding.sha256 == row["sha256"])
                        .run()
                    )

        await self._session.write(purge)

    # the embedding cache

    async def cached_embedding(self, key: CacheKey) -> Vector | None:
        query = self._embedding.select(self._embedding.vector).where(*self._cached(key))
        rows = await self._session.read(query.run())
        return np.frombuffer(rows[0]["vector"], "<f4").astype(np.float32) if rows else None

    async def cache_embedding(self, key: CacheKey, vector: Vector) -> None:
        async def keep() -> None:
            row = self._embedding(
                sha256=key.sha256,
                model=key.model,
                preprocessing=key.preprocessing,
                vector=vector.astype("<f4").tobytes(),
                orphaned_at=_now(),  # until the first sweep finds an image with these bytes
            )
            await self._embedding.insert(row).on_conflict(action="DO NOTHING").run()

        await self._session.write(keep)

    async def sweep_cache(self, keep_seconds: float) -> int:
        row = self._embedding
        query = row.select(row.id, row.sha256).where(row.orphaned_at <= _now(-keep_seconds)).limit(_SWEPT_AT_ONCE)
        swept = 0
        while found := await self._session.read(query.run()):
            swept += await self._session.write(partial(self._sweep, found))
        return swept

    async def _sweep(self, found: Sequence[Mapping[str, Any]]) -> int:
        """Remove those of `found` whose bytes no image has; look at the others again when one is purged."""
        used = await self._image.select(self._image.sha256).where(
            self._image.sha256.is_in([row["sha256"] for row in found])
        )
        living = {row["sha256"] for row in used}
        dead_ids = [row["id"] for row in found if row["sha256"] not in living]
        living_ids = [row["id"] for row in found if row["sha256"] in living]
        if dead_ids:
            await self._embedding.delete().where(self._embedding.id.is_in(dead_ids)).run()
        if living_ids:
            values: Values = {self._embedding.orphaned_at: None}
            await self._embedding.update(values).where(self._embedding.id.is_in(living_ids)).run()
        return len(dead_ids)

    # the pieces

    @property
    def _alive(self) -> Where:
        return self._image.deleted_at.is_null()

    def _same_bytes(self, image: Image) -> And:
        return And(And(self._image.collection == image.collection, self._image.sha256 == image.sha256), self._alive)

    def _cached(self, key: CacheKey) -> tuple[Where, ...]:
        row = self._embedding
        return (row.sha256 == key.sha256, row.model == key.model, row.preprocessing == key.preprocessing)

    async def _add_tags(self, image_id: UUID, tags: Sequence[str]) -> None:
        rows = [self._tag(image=image_id, tag=tag) for tag in dict.fromkeys(tags)]
        if rows:
            await self._tag.insert(*rows).run()

    async def _select(self, *where: Any, limit: int | None = None, newest_first: bool = False) -> Sequence[Image]:
        query = self._image.select(self._all).where(*where, self._alive)
        if newest_first:
            query = query.order_by(self._image.id, ascending=False)
        if limit is not None:
            query = query.limit(limit)
        return [image_of(row) for row in await self._session.read(query.run())]

    async def _update(self, values: Values, *where: Any) -> Sequence[Image]:
        rows = await self._image.update(values).where(*where).returning(*self._columns).run()
        return [image_of(row) for row in rows]

    async def _change(self, values: Values, *where: Any) -> Sequence[Image]:
        """One update in a transaction of its own."""
        return await self._session.write(lambda: self._update({**values, self._image.updated_at: _now()}, *where))

    async def _change_claimed(self, image_id: UUID, attempt: int, values: Values) -> Image:
        """One update under the fence of a claim."""
        images = await self._change(
            values,
            self._image.id == image_id,
            self._image.attempts == attempt,
            self._image.owner.is_not_null(),
            self._alive,
        )
        return _one(images, LeaseLost(f"Attempt {attempt} no longer holds the image {image_id}."))


def _now(plus_seconds: float = 0.0) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=plus_seconds)


def _one(images: Sequence[Image], otherwise: Exception) -> Image:
    if not images:
        raise otherwise
    return images[0]
