"""The sizes in which an image is shown, and where each is kept."""

import re
from dataclasses import dataclass
from uuid import UUID

from imgsim.core.errors import InvalidRequest
from imgsim.core.models import derived_prefix

CONTENT_TYPE = "image/webp"

_PIXELS = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class ThumbnailSize:
    name: str
    longest: int
    """Pixels of the longer side at most; no image is enlarged."""
    effort: int
    """How hard the encoder tries for fewer bytes, 0 to 6: least for ``small``, which every image pays for."""

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of an upright image of `width` x `height` in this size."""
        scale = min(1.0, self.longest / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def key(self, image_id: UUID) -> str:
        return f"{derived_prefix(image_id)}thumbnail-{self.name}.webp"


SMALL = ThumbnailSize("small", 256, effort=0)
LARGE = ThumbnailSize("large", 640, effort=2)
SIZES = (SMALL, LARGE)
"""Smallest first. ``small`` is made by the stage, ``large`` when it is first asked for: it takes four times as long."""


def size_of(text: str) -> ThumbnailSize:
    """By name, or by pixels: the smallest that has as many, else the largest. ``InvalidRequest``."""
    for size in SIZES:
        if text == size.name:
            return size
    if not _PIXELS.fullmatch(text):
        raise InvalidRequest(f"The size of a thumbnail is small, large or a number of pixels, not {text[:80]!r}.")
    return next((size for size in SIZES if size.longest >= int(text)), LARGE)
