"""open_clip's preprocessing without torch: Pillow resizes and crops, the model's graph normalises."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from PIL import Image

from imgsim.core.models import Picture

LONGEST = 16
"""Sides in a ratio above this are cut to it around the middle, which is all that a centre crop sees.

open_clip resizes the shorter side first, and so would make 13 GB out of a picture of 1 x 65,535 pixels.
"""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """What open_clip's ``PreprocessCfg`` says, and its ``image_transform`` does up to the normalisation."""

    height: int
    width: int
    resize_mode: str
    """``shortest`` (and the centre of the rest), ``longest`` (and a border), or ``squash``."""
    interpolation: str
    fill_color: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """From the dictionary ``visual.preprocess_cfg``."""
        size = config["size"]
        height, width = (size, size) if isinstance(size, int) else size
        mean, std = tuple(config["mean"]), tuple(config["std"])
        return cls(height, width, config["resize_mode"], config["interpolation"], config["fill_color"], mean, std)

    def fit(self, picture: Picture) -> Picture:
        """``(height, width, 3)`` uint8, what the model's graph takes.

        ``ValueError`` for a side that would shrink to nothing.
        """
        if self.resize_mode == "shortest":
            picture = middle(picture)
        image = Image.fromarray(picture)
        size = self._resized(*image.size)
        if size != image.size:
            image = image.resize(size, self._filter())
        if image.size != (self.width, self.height):
            image = self._centre(image)
        return np.asarray(image)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height before the crop, rounded as torchvision and open_clip do, each in its own case."""
        if self.resize_mode == "squash":
            return self.width, self.height
        if self.resize_mode == "shortest" and self.width == self.height:  # torchvision's Resize: cut off
            long = int(self.width * max(width, height) / min(width, height))
            return (self.width, long) if width <= height else (long, self.width)
        ratios = (height / self.height, width / self.width)  # open_clip's ResizeKeepRatio: rounded
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return round(width / ratio), round(height / ratio)

    def _filter(self) -> Image.Resampling:
        # open_clip's way for the shorter side of an oblong input names no interpolation, and so is bicubic.
        oblong = self.resize_mode == "shortest" and self.width != self.height
        bilinear = self.interpolation == "bilinear" and not oblong
        return Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC

    def _centre(self, image: Image.Image) -> Image.Image:
        """The middle, with a border of `fill_color` where the image is smaller."""
        canvas = Image.new("RGB", (self.width, self.height), (self.fill_color,) * 3)
        canvas.paste(image, (_offset(image.width, self.width), _offset(image.height, self.height)))
        return canvas


def _offset(side: int, wanted: int) -> int:
    """Where `side` begins on a canvas of `wanted`, rounded as open_clip does."""
    return (wanted - side) // 2 if side < wanted else -round((side - wanted) / 2)


def middle(picture: Picture) -> Picture:
    """`picture` with its longer side cut to ``LONGEST`` times the shorter one."""
    height, width = picture.shape[:2]
    limit = LONGEST * min(height, width)
    top, left = max(0, height - limit) // 2, max(0, width - limit) // 2
    return picture[top : top + limit, left : left + limit]
