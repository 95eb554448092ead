"""The stage ``thumbnail``: the size that a gallery shows, ready before somebody looks."""

import io
import logging
from collections.abc import Sequence
from typing import Any

from imgsim import hookimpl
from imgsim.core.errors import Unavailable
from imgsim.core.thumbnails import CONTENT_TYPE, SIZES, SMALL
from imgsim.pipeline.stage import Stage, StageContext
from imgsim.thumbnails import encode_thumbnail

log = logging.getLogger("imgsim.thumbnails")


class ThumbnailStage:
    name = "thumbnail"
    after = ("embed",)
    before = ("index",)
    quick = True

    async def run(self, ctx: StageContext) -> dict[str, list[int]] | None:
        """Width and height by size. None where none can be made, which is no reason for the image to fail."""
        fitted = {size.name: size.fit(ctx.image.width, ctx.image.height) for size in SIZES}
        try:
            picture = await ctx.picture()
            content = await ctx.compute(encode_thumbnail, picture, *fitted[SMALL.name], SMALL.effort)
            await ctx.ports.objects.put(SMALL.key(ctx.image.id), io.BytesIO(content), CONTENT_TYPE, durable=False)
        except Unavailable:
            raise
        except Exception:
            log.warning("image %s gets no thumbnail", ctx.image.id, exc_info=True)
            return None
        return {name: [*sides] for name, sides in fitted.items()}


@hookimpl
def imgsim_stages(settings: Any) -> Sequence[Stage]:
    return [ThumbnailStage()]
