"""The embedding cache, in a table of its own."""

import numpy as np
from piccolo.querystring import QueryString

from imgsim.adapters.database.session import Session
from imgsim.adapters.database.statements import Time, insert
from imgsim.core.models import CacheKey, Vector

_SWEPT_AT_ONCE = 1000
_HAS_IMAGE = "EXISTS (SELECT 1 FROM image WHERE image.sha256 = cached_embedding.sha256)"


class PiccoloEmbeddingCache:
    """The part of the repository that keeps embeddings."""

    _session: Session

    async def cached_embedding(self, key: CacheKey) -> Vector | None:
        sql = "SELECT vector FROM cached_embedding WHERE sha256 = {} AND model = {} AND preprocessing = {}"
        rows = await self._session.select(QueryString(sql, key.sha256, key.model, key.preprocessing))
        return np.frombuffer(rows[0]["vector"], "<f4").astype(np.float32) if rows else None

    async def cache_embedding(self, key: CacheKey, vector: Vector) -> None:
        row = {
            "sha256": key.sha256,
            "model": key.model,
            "preprocessing": key.preprocessing,
            "vector": vector.astype("<f4").tobytes(),
            "orphaned_at": self._session.now(),  # until the first sweep finds an image with these bytes
        }
        await self._session.execute(insert("cached_embedding", row), synced=False)

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
