"""The stage ``index``: from the embedding to a point in the vector index."""

from collections.abc import Sequence
from typing import Any

from imgsim import hookimpl
from imgsim.core.errors import EmbeddingFailed
from imgsim.core.models import Point
from imgsim.pipeline.stage import Stage, StageContext


class IndexStage:
    name = "index"
    after = ("embed",)

    async def run(self, ctx: StageContext) -> None:
        if ctx.embedding is None:
            raise EmbeddingFailed("No stage before index has set an embedding.")
        point = Point.of(ctx.image, ctx.embedding)
        await ctx.ports.vectors.upsert(ctx.ports.embedder.model_id, [point])
        ctx.indexed = point


@hookimpl
def imgsim_stages(settings: Any) -> Sequence[Stage]:
    return [IndexStage()]
