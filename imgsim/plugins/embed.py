"""The stage ``embed``: from the picture to its embedding, through the embedding cache."""

import asyncio
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from imgsim import hookimpl
from imgsim.core.models import DECODING, CacheKey
from imgsim.pipeline.stage import Stage, StageContext


class EmbedStage:
    name = "embed"

    def __init__(self) -> None:
        # The same bytes in two collections at once: the second waits, and finds the first's result.
        self._running: WeakValueDictionary[CacheKey, asyncio.Lock] = WeakValueDictionary()

    async def run(self, ctx: StageContext) -> None:
        """Sets ``ctx.embedding``."""
        embedder, images = ctx.ports.embedder, ctx.ports.images
        key = CacheKey(ctx.image.sha256, embedder.model_id, f"{embedder.preprocessing} {DECODING}")
        lock = self._running.setdefault(key, asyncio.Lock())
        async with lock:
            ctx.embedding = await images.cached_embedding(key)
            if ctx.embedding is None:
                vectors = await embedder.embed_images([await ctx.picture()])
                ctx.embedding = vectors[0]
                await images.cache_embedding(key, vectors[0])


@hookimpl
def imgsim_stages(settings: Any) -> Sequence[Stage]:
    return [EmbedStage()]
