"""The stage ``palette``: the dominant colours of a picture, most frequent first. Blank pictures are rejected."""

from typing import Any

from PIL import Image

import imgsim
from imgsim.core.errors import ImageRejected
from imgsim.core.models import Picture
from imgsim.pipeline.stage import StageContext

MOST_COLOURS = 5
LARGEST_SIDE = 128  # pixels; shares of colours need no more
NOISE = 8  # the most by which the pixels of a blank picture differ, of 255


class PaletteStage:
    name = "palette"
    before = "embed"  # so that no model works on a picture that is rejected

    async def run(self, ctx: StageContext) -> list[dict[str, Any]]:
        """``[{"colour": "#rrggbb", "share": 0.0 to 1.0}, ...]``"""
        return await ctx.compute(palette, await ctx.picture())


def palette(picture: Picture) -> list[dict[str, Any]]:
    darkest, brightest = picture.min(axis=(0, 1)).astype(int), picture.max(axis=(0, 1)).astype(int)
    if (brightest - darkest).max() <= NOISE:
        raise ImageRejected(f"The picture is blank: all of it is {_hex(picture[0, 0])}.")
    image = Image.fromarray(picture)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    reduced = image.quantize(MOST_COLOURS)
    counts = sorted(reduced.getcolors() or [], reverse=True)
    colours = reduced.getpalette() or []
    pixels = image.width * image.height
    return [
        {"colour": _hex(colours[3 * index : 3 * index + 3]), "share": round(count / pixels, 3)}
        for count, index in counts
    ]


def _hex(colour: Any) -> str:
    return "#" + "".join(f"{value:02x}" for value in colour)


@imgsim.hookimpl
def imgsim_stages(settings: Any) -> list[PaletteStage]:
    return [PaletteStage()]
