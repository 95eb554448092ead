"""From what a decoder gives to 8-bit sRGB, reduced, in bands so that a large picture is never held twice."""

import math
from collections.abc import Iterator

import numpy as np
from PIL import Image

from imgsim.adapters.colour_profiles import transform_for

MOST_SIDES = 16
"""The long side of a reduced picture is at most this many times the smallest side asked for: 20 MB at 448."""
BAND_PIXELS = 1_000_000
"""Pixels that are converted at once, so that a large picture is never held twice."""


def reduced_rgb(image: Image.Image, min_side: int, extent: tuple[float, float] | None = None) -> Image.Image:
    """`image` as sRGB, reduced by the largest whole factor that keeps both sides >= `min_side`.

    `extent` is the part of `image` that is picture, where a decoder that scales fills up its last column and row.
    Sides that the factor divides are reduced by boxes. Others by boxes of half the factor, then bicubic to whole
    pixels: with the last box filled up, the picture would move by up to half a pixel, which costs .003 of a cosine.
    The colours come last, since they cost most.
    """
    transform = transform_for(image)
    kept = transform.input_mode if transform and transform.input_mode in ("CMYK", "LAB") else "RGB"
    small = _reduced(image, min_side, extent or image.size, kept)
    if transform is None:
        return small
    return transform.apply(small.convert(transform.input_mode))


def _reduced(image: Image.Image, min_side: int, extent: tuple[float, float], mode: str) -> Image.Image:
    width, height = extent
    factor = max(1, int(min(width, height)) // min_side)
    # A strip is squashed along its length: scaled alike on both sides it would stay as large as it came.
    across, down = (max(factor, math.ceil(side / (MOST_SIDES * min_side))) for side in (width, height))
    size = max(1, round(width / across)), max(1, round(height / down))
    if across == down == 1:
        return _boxed(image if image.size == size else image.crop((0, 0, *size)), (1, 1), mode)
    if (width % across, height % down) == (0, 0):
        return _boxed(image, (across, down), mode)
    boxes = max(1, across // 2), max(1, down // 2)
    box = (0, 0, width / boxes[0], height / boxes[1])
    return _boxed(image, boxes, mode).resize(size, Image.Resampling.BICUBIC, box)


def _boxed(image: Image.Image, boxes: tuple[int, int], mode: str) -> Image.Image:
    """`image` in `mode` (RGB, or its own), the mean over boxes of so many columns and rows.

    In bands: beside it only a small one is held.
    """
    levels = _levels(image)
    across, down = boxes
    if across == down == 1:
        return _to_mode(image, levels, mode)
    small = Image.new(mode, (-(-image.width // across), -(-image.height // down)))
    for top, band in _bands(image, down):
        small.paste(_to_mode(band, levels, mode).reduce(boxes), (0, top // down))
    return small


def _bands(image: Image.Image, factor: int = 1) -> Iterator[tuple[int, Image.Image]]:
    width, height = image.size
    rows = max(1, BAND_PIXELS // (width * factor)) * factor
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(top + rows, height)))


def _levels(image: Image.Image) -> tuple[float, float] | None:
    """The values of black and white where a sample has more than 8 bits, or None where Pillow knows them.

    16 bits have a fixed range. 32-bit integers and floats have none: the narrowest usual one that holds all
    values, else their own.
    """
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    if image.mode not in ("I", "F"):
        return None
    low, high = np.inf, -np.inf
    for _, band in _bands(image):
        values = np.asarray(band, np.float64)
        values = values[np.isfinite(values)]
        low, high = min(low, values.min(initial=np.inf)), max(high, values.max(initial=-np.inf))
    usual = (limit for limit in (1.0, 255.0, 65535.0) if low >= 0 and high <= limit)
    return next(((0.0, limit) for limit in usual), (float(low), float(high)))


def _to_mode(image: Image.Image, levels: tuple[float, float] | None, mode: str) -> Image.Image:
    if levels:
        low, high = levels
        values = np.nan_to_num(np.asarray(image, np.float64), nan=low, posinf=high, neginf=low)
        scaled = np.clip((values - low) * (255.0 / ((high - low) or 1.0)), 0, 255).round().astype(np.uint8)
        return Image.fromarray(scaled).convert("RGB")
    if image.has_transparency_data:
        # On white, as a page would show it: cut-out products and logos then match photos on a white ground.
        rgba = image.convert("RGBA")
        ground = Image.new("RGB", image.size, "white")
        ground.paste(rgba, mask=rgba)
        return ground
    return image if image.mode == mode else image.convert("RGB")
