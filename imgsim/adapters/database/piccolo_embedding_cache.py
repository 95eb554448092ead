"""The embedding cache, in a table of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from piccolo.querystring import QueryString

from imgsim.adapters.coalescer import Coalescer
from imgsim.adapters.database.session import Session
from imgsim.adapters.database.statements import Time, insert, places_of
from imgsim.core.models import CacheKey, Vector

_KEY = CacheKey._fields
_MOST_AT_ONCE = 16
_SWEPT_AT_ONCE = 1000
_HAS_IMAGE = "EXISTS (SELECT 1 FROM image WHERE image.sha256 = cached_embedding.sha256)"


@dataclass(slots=True)
class _Entry:
    key: CacheKey
    vector: Vector | None = None


class PiccoloEmbeddingCache:
    """The part of the repository that keeps embeddings. What is asked or kept at once is one statement."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._asked = Coalescer(self._find, _MOST_AT_ONCE, "database")
        self._kept = Coalescer(self._insert, _MOST_AT_ONCE, "database")

    async def cached_embedding(self, key: CacheKey) -> Vector | None:
        entry = _Entry(key)
        await self._asked.submit([entry])
        return entry.vector

    async def cache_embedding(self, key: CacheKey, vector: Vector) -> None:
        await self._kept.submit([_Entry(key, vector)])

    async def _find(self, entries: Sequence[_Entry]) -> None:
        """Fill in the vectors that are there."""
        columns = [{*values} for values in zip(*(entry.key for entry in entries), strict=True)]
        where = " AND ".join(f"{name} IN ({places_of(values)})" for name, values in zip(_KEY, columns, strict=True))
        sql = f"SELECT {', '.join(_KEY)}, vector FROM cached_embedding WHERE {where}"
        rows = await self._session.select(QueryString(sql, *(value for values in columns for value in values)))
        found = {tuple(row[name] for name in _KEY): row["vector"] for row in rows}
        for entry in entries:
            if (vector := found.get(entry.key)) is not None:
                entry.vector = np.frombuffer(vector, "<f4").astype(np.float32)

    async def _insert(self, entries: Sequence[_Entry]) -> None:
        rows = [
            {
                **entry.key._asdict(),
                "vector": entry.vector.astype("<f4").tobytes(),
                "orphaned_at": self._session.now(),  # until the first sweep finds an image with these bytes
            }
            # In one order, so that no two transactions that keep the same ever wait for each other.
            for entry in sorted(entries, key=lambda entry: entry.key)
            if entry.vector is not None
        ]
        await self._session.execute(insert("cached_embedding", *rows), synced=False)

    async def sweep_cache(self, keep_seconds: float) -> int:
        swept = 0
        while True:
            until = self._session.now(-keep_seconds)
            adopted, dead = await self._session.execute(
                # Looked at again when an image with these bytes is purged.
                self._orphans(until, f"UPDATE cached_embedding SET orphaned_at = NULL WHERE {_HAS_IMAGE}"),
                self._orphans(until, f"DELETE FROM cached_embedding WHERE NOT {_HAS_IMAGE}"),
            )
            swept += len(dead)
            if not adopted and not dead:
                return swept

    def _orphans(self, until: Time, change: str) -> QueryString:
        """`change` some of those that are orphaned since `until` or longer, and that nobody else is changing."""
        return QueryString(
            "WITH chosen AS (SELECT id FROM cached_embedding WHERE orphaned_at <= {} "
            f"ORDER BY orphaned_at, id LIMIT {_SWEPT_AT_ONCE}{self._session.dialect.lock_free}) "
            f"{change} AND id IN (SELECT id FROM chosen) RETURNING id",
            until,
        )
