"""From what a decoder gives to 8-bit RGB, reduced, in bands so that a large picture is never held twice."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

MOST_SIDES = 16
"""The long side of a reduced picture is at most this many times the smallest side asked for: 20 MB at 448."""
BAND_PIXELS = 1_000_000
"""Pixels that are converted at once, so that a large picture is never held twice."""


def reduced_rgb(image: Image.Image, min_side: int) -> Image.Image:
    """`image` as RGB, box-filtered by the largest whole factor that keeps both sides >= `min_side`.

    In bands, so that beside a large picture only a small one is held.
    """
    width, height = image.size
    factor = max(1, min(image.size) // min_side)
    # A strip is squashed along its length: scaled alike on both sides it would stay as large as it came.
    across, down = (max(factor, -(-side // (MOST_SIDES * min_side))) for side in image.size)
    levels = _levels(image)
    if across == down == 1:
        return _to_rgb(image, levels)
    small = Image.new("RGB", (-(-width // across), -(-height // down)))
    for top, band in _bands(image, down):
        small.paste(_to_rgb(band, levels).reduce((across, down)), (0, top // down))
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


def _to_rgb(image: Image.Image, levels: tuple[float, float] | None) -> Image.Image:
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
    return image if image.mode == "RGB" else image.convert("RGB")
