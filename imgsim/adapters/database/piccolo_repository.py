"""ImageRepository on Piccolo tables; what differs between the engines lies in ``session.py``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Self, TypeVar
from uuid import UUID

import numpy as np
from piccolo.columns import Column, Where
from piccolo.columns.combination import WhereRaw
from piccolo.query.functions import Count
from piccolo.querystring import QueryString

from imgsim.adapters.database import statements
from imgsim.adapters.database.rows import image_of, row_of, uuid_of
from imgsim.adapters.database.session import Session
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


class PiccoloImageRepository:
    """The truth about every image, in two tables and a third for the embedding cache."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def __aenter__(self) -> Self:
        tables = await self._session.open()
        await self._session.migrate_if_new()
        self._image, self._tag, self._embedding = tables.image, tables.tag, tables.embedding
        self._columns = self._image.all_columns()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    async def ping(self) -> None:
        await self._session.read(self._image.select(self._image.id).limit(1).run())

    # rows

    async def add(self, image: Image) -> Image:
        insert = [statements.insert_image(row_of(image))]
        if image.tags:
            insert.append(statements.insert_tags(image.id, image.tags))
        # Twice, since what stood in the way may be deleted in the meantime.
        for _ in range(2):
            if (await self._session.execute(*insert))[0]:
                return image
            existing = await self.find(image.collection, image.sha256)
            if existing is not None:
                return replace(existing, duplicate=True)
        raise WrongState(f"Another image has the id {image.id}.")

    async def get(self, image_id: UUID) -> Image:
        rows = await self._session.select(statements.select_images([image_id]))
        if not rows:
            raise ImageNotFound(f"No image has the id {image_id}.")
        return image_of(rows[0])

    async def get_many(self, image_ids: Sequence[UUID]) -> Mapping[UUID, Image]:
        if not image_ids:
            return {}
        images = map(image_of, await self._session.select(statements.select_images(image_ids)))
        return {image.id: image for image in images}

    async def find(self, collection: str, sha256: str) -> Image | None:
        rows = await self._session.select(statements.select_by_bytes(collection, sha256))
        return image_of(rows[0]) if rows else None

    async def list(self, where: ImageFilter, limit: int, before: UUID | None = None) -> Sequence[Image]:
        conditions: Any = []
        if tags := list(dict.fromkeys(where.tags)):
            places = ", ".join("{}" for _ in tags)
            with_all = f"SELECT image FROM image_tag WHERE tag IN ({places}) GROUP BY image HAVING COUNT(*) = {{}}"
            conditions.append(WhereRaw(f"id IN ({with_all})", *tags, len(tags)))
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
        (rows,) = await self._session.execute(statements.mark_pending(image_ids, _now()), synced=False)
        return [image_of(row) for row in rows]

    async def claim(self, image_ids: Sequence[UUID], owner: str, lease_seconds: float, stage: str) -> Sequence[Image]:
        if not image_ids:
            return []
        statement = statements.claim(image_ids, owner, _now(), _now(lease_seconds), stage)
        (rows,) = await self._session.execute(statement, synced=False)
        return [image_of(row) for row in rows]

    async def renew(self, owner: str, image_ids: Sequence[UUID], lease_seconds: float) -> set[UUID]:
        if not image_ids:
            return set()

        (rows,) = await self._session.execute(statements.renew(owner, image_ids, _now(lease_seconds)), synced=False)
        return {uuid_of(row["id"]) for row in rows}

    async def advance(self, image_id: UUID, attempt: int, stage: str) -> Image:
        values: dict[str, Any] = {"stage": stage}
        if stage in STATE_OF_STAGE:
            values["state"] = STATE_OF_STAGE[stage].value
        return await self._change_claimed(image_id, attempt, values)

    async def finish(
        self, image_id: UUID, attempt: int, features: Mapping[str, Any], embedding: EmbeddingInfo | None
    ) -> Image:
        values = {
            "state": ImageState.DONE.value,
            "stage": None,
            "error": None,
            "features": json.dumps(features),
            "model": embedding.model if embedding else None,
            "dimensions": embedding.dimensions if embedding else None,
            "owner": None,
            "due_at": None,
        }
        return await self._change_claimed(image_id, attempt, values)

    async def fail(
        self, image_id: UUID, attempt: int, error: ImageError, retry_at: datetime | None, counts: bool = True
    ) -> Image:
        values = {
            "state": (ImageState.PENDING if retry_at else ImageState.ERROR).value,
            "stage": None if retry_at else error.stage,
            "error": json.dumps(asdict(error)),
            "owner": None,
            "due_at": retry_at,
        }
        return await self._change_claimed(image_id, attempt, values, give_back=not counts)

    async def failures(self, image_id: UUID) -> int:
        query = self._image.select(self._image.failures).where(self._image.id == image_id, self._alive)
        rows = await self._session.read(query.run())
        if not rows:
            raise ImageNotFound(f"No image has the id {image_id}.")
        return int(rows[0]["failures"])

    async def release(self, owner: str | None) -> Sequence[UUID]:
        values: Values = {
            self._image.state: ImageState.PENDING.value,
            self._image.owner: None,
            self._image.due_at: _now(),
        }
        mine = self._image.owner.is_not_null()
        if owner is not None:
            mine = self._image.owner == owner
            values[self._image.stage] = None  # of the dead, ``bury`` may want to say which it was
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
            for row in await self._image.select(QueryString(statements.COLUMNS)).where(*lost).run():
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
            self._image.select(QueryString(statements.COLUMNS))
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
        rows = await self._session.select(statements.select_embedding(key))
        return np.frombuffer(rows[0]["vector"], "<f4").astype(np.float32) if rows else None

    async def cache_embedding(self, key: CacheKey, vector: Vector) -> None:
        # Counts as orphaned until the first sweep finds an image with these bytes.
        await self._session.execute(
            statements.insert_embedding(key, vector.astype("<f4").tobytes(), _now()), synced=False
        )

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

    async def _add_tags(self, image_id: UUID, tags: Sequence[str]) -> None:
        rows = [self._tag(image=image_id, tag=tag) for tag in dict.fromkeys(tags)]
        if rows:
            await self._tag.insert(*rows).run()

    async def _select(self, *where: Any, limit: int | None = None, newest_first: bool = False) -> Sequence[Image]:
        query = self._image.select(QueryString(statements.COLUMNS)).where(*where, self._alive)
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

    async def _change_claimed(
        self, image_id: UUID, attempt: int, values: Mapping[str, Any], give_back: bool = False
    ) -> Image:
        """One update under the fence of a claim; `give_back` the attempt to the budget."""
        statement = statements.change_claimed(image_id, attempt, values, _now(), give_back)
        (rows,) = await self._session.execute(statement, synced=False)
        if not rows:
            raise LeaseLost(f"Attempt {attempt} no longer holds the image {image_id}.")
        return image_of(rows[0])


def _now(plus_seconds: float = 0.0) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=plus_seconds)


def _one(images: Sequence[Image], otherwise: Exception) -> Image:
    if not images:
        raise otherwise
    return images[0]
