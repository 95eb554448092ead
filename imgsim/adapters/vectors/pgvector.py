"""Vectors in PostgreSQL, by pgvector 0.8."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import numpy as np

from imgsim.adapters.coalescer import Coalescer, chunks
from imgsim.adapters.vectors import checked_vector, no_collection, ranked, stacked
from imgsim.adapters.vectors.pgvector_tables import (
    COLUMNS,
    REGISTRY,
    Collection,
    Row,
    make_collection,
    nearest,
    random_ids,
    score,
    switch_live,
    table_name,
)
from imgsim.adapters.vectors.postgres_pool import PostgresPool
from imgsim.core.errors import VectorRefused
from imgsim.core.filters import metadata_tokens
from imgsim.core.models import Hit, Point, SearchFilter, Vector, Vectors

BATCH = 64
"""Points that one statement writes, in 0.15 s, and vectors that one reads."""

PAGE = 1000
"""Points of which one statement reads the ids, or that it removes."""

PING_SECONDS = 2.0


class PgvectorVectorIndex:
    """A table for each model in the database at `url`: ``imgsim_vectors_1`` and so on, by ``imgsim_vector_collection``.

    A table holds the full vectors, and an HNSW graph of them as float16. Few points, and few that pass a
    filter (``EXACT_ROWS``), are compared one by one; of many, the graph names candidates, and the full vectors
    give the scores and the order. Concurrent upserts share statements. What is written is committed when a
    method returns. A model without a collection is ``NotSearchable`` in every method that takes one.
    """

    def __init__(self, url: str, pool_min: int, pool_max: int) -> None:
        self._pool = PostgresPool(url, pool_min, pool_max)
        self._collections: dict[str, Collection] = {}
        self._asking = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._pool.open(REGISTRY)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for collection in self._collections.values():
            await collection.upserts.close()
        await self._pool.close()

    async def ping(self) -> None:
        await self._pool.run(lambda connection: connection.execute("SELECT 1"), PING_SECONDS)

    async def open_collection(self, model: str, dimensions: int) -> None:
        await self._pool.run(partial(make_collection, model, dimensions))
        found = (await self._collection(model)).dimensions
        if found != dimensions:
            raise VectorRefused(f"The collection of {model} has {found} dimensions, not {dimensions}.")

    async def models(self) -> Sequence[str]:
        return sorted(row["model"] for row in await self._fetch("SELECT model FROM imgsim_vector_collection"))

    async def set_live(self, model: str) -> None:
        await self._collection(model)
        await self._pool.run(partial(switch_live, model))

    async def live(self) -> str | None:
        rows = await self._fetch("SELECT model FROM imgsim_vector_collection WHERE live")
        return rows[0]["model"] if rows else None

    async def upsert(self, model: str, points: Sequence[Point]) -> None:
        collection = await self._collection(model)
        rows: list[Row] = [
            (
                point.id,
                point.collection,
                list(point.tags),
                checked_vector(point.vector, collection.dimensions, model),
                point.created_at,
                metadata_tokens(point.metadata),
            )
            for point in points
        ]
        await collection.upserts.submit(rows)

    async def _write(self, table: str, rows: Sequence[Row]) -> None:
        """Add or replace `rows`; those that are there already are left alone, and of one id the last counts."""
        by_id = {row[0]: row for row in rows}
        in_order = [by_id[each] for each in sorted(by_id)]  # two that write the same points never wait in a circle
        await self._fetch(
            f"INSERT INTO {table} AS old SELECT * FROM unnest($1::{table}[]) ON CONFLICT (id) DO UPDATE"
            f" SET ({COLUMNS}) = ({_of('excluded')}) WHERE ({_of('old')}) IS DISTINCT FROM ({_of('excluded')})",
            in_order,
        )

    async def query(
        self,
        model: str,
        vector: Vector,
        limit: int,
        where: SearchFilter,
        min_score: float | None = None,
        exact: bool = False,
    ) -> Sequence[Hit]:
        collection = await self._collection(model)
        asked = checked_vector(vector, collection.dimensions, model)
        rows = await self._pool.run(partial(nearest, collection, asked, limit, where, exact))
        return ranked([Hit(row["id"], score(row["distance"])) for row in rows], min_score)[:limit]

    async def fetch(self, model: str, image_ids: Sequence[UUID]) -> Mapping[UUID, Vector]:
        table = (await self._collection(model)).table
        found: dict[UUID, Vector] = {}
        for batch in chunks(image_ids, BATCH):
            rows = await self._fetch(f"SELECT id, embedding FROM {table} WHERE id = ANY($1)", batch)
            found.update((row["id"], np.array(row["embedding"].to_numpy())) for row in rows)
        return found

    async def sample(self, model: str, collection: str | None, n: int) -> Vectors:
        found = await self._collection(model)
        ids = await self._pool.run(partial(random_ids, found.table, collection, n))
        return stacked((await self.fetch(model, ids)).values(), found.dimensions)

    async def set_payload(self, model: str, image_id: UUID, tags: Sequence[str], metadata: Mapping[str, Any]) -> None:
        table = (await self._collection(model)).table
        await self._fetch(
            f"UPDATE {table} SET tags = $2, metadata = $3 WHERE id = $1 AND (tags, metadata) <> ($2, $3)",
            image_id,
            list(tags),
            metadata_tokens(metadata),
        )

    async def delete(self, image_ids: Sequence[UUID]) -> None:
        for model in await self.models():
            table = (await self._collection(model)).table
            for batch in chunks(image_ids, PAGE):
                await self._fetch(f"DELETE FROM {table} WHERE id = ANY($1)", batch)

    async def count(self, model: str) -> int:
        table = (await self._collection(model)).table
        return int((await self._fetch(f"SELECT count(*) FROM {table}"))[0]["count"])

    async def ids(self, model: str) -> AsyncIterator[UUID]:
        table = (await self._collection(model)).table
        last: UUID | None = None
        page = f"SELECT id FROM {table} WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT {PAGE}"
        while rows := await self._fetch(page, last):
            for row in rows:
                yield row["id"]
            last = rows[-1]["id"]

    async def _fetch(self, sql: str, *values: Any) -> Sequence[Mapping[str, Any]]:
        rows: Sequence[Mapping[str, Any]] = await self._pool.run(lambda connection: connection.fetch(sql, *values))
        return rows

    async def _collection(self, model: str) -> Collection:
        """The model's collection, asked for once."""
        if model not in self._collections:
            async with self._asking:
                if model not in self._collections:
                    self._collections[model] = await self._ask(model)
        return self._collections[model]

    async def _ask(self, model: str) -> Collection:
        rows = await self._fetch("SELECT id, dimensions FROM imgsim_vector_collection WHERE model = $1", model)
        if not rows:
            raise no_collection(model)
        table = table_name(rows[0]["id"])
        return Collection(table, rows[0]["dimensions"], Coalescer(partial(self._write, table), BATCH, "vector index"))


def _of(row: str) -> str:
    return ", ".join(f"{row}.{column}" for column in COLUMNS.split(", "))
