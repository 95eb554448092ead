"""ICC profiles made of a few numbers (ICC.1:2010), as cameras, screens and presses embed them."""

import struct
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

Primaries = Sequence[tuple[float, float, float]]

D50 = (0.9642, 1.0, 0.8249)

# XYZ of red, green and blue under D50, as the published profiles have them.
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


def profile(space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ", device: bytes = b"mntr") -> bytes:
    directory, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        directory += name + struct.pack(">II", start + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    head = struct.pack(">I4x4s4s4s4s12x4s", start + len(body), b"\x02\x40\0\0", device, space, pcs, b"acsp")
    return head.ljust(68, b"\0") + _numbers(*D50) + b"\0" * 48 + directory + body


def matrix_profile(primaries: Primaries, gamma: float | None = None) -> bytes:
    """RGB with these primaries; with sRGB's curve, or a power."""
    curve = _curve(gamma)
    tags = {b"wtpt": _xyz(*D50)}
    for name, xyz in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags |= {name + b"XYZ": _xyz(*xyz), name + b"TRC": curve}
    return profile(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    return profile(b"GRAY", {b"wtpt": _xyz(*D50), b"kTRC": _curve(gamma)})


def cmyk_profile(lab_of: Callable[[Sequence[float]], tuple[float, float, float]], grid: int = 2) -> bytes:
    """`lab_of` the amounts of the four inks, 0 to 1, gives L (0 to 100), a and b; between them it is linear."""
    values = [lab_of([step / (grid - 1) for step in steps]) for steps in product(range(grid), repeat=4)]
    table = bytes(round(part) for L, a, b in values for part in (L * 2.55, a + 128, b + 128))
    straight = bytes(range(256))
    unit = b"".join(_numbers(*row) for row in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    lut = b"mft1" + bytes((0, 0, 0, 0, 4, 3, grid, 0)) + unit + straight * 4 + table + straight * 3
    return profile(b"CMYK", {b"wtpt": _xyz(*D50), b"A2B0": lut}, b"Lab ", b"prtr")


def in_srgb(rgb: Sequence[int], primaries: Primaries, gamma: float | None = None) -> list[int]:
    """What `rgb` of a matrix profile is in sRGB, computed without LittleCMS; clipped to what sRGB can show."""
    values = np.asarray(rgb) / 255
    linear = _linear(values) if gamma is None else values**gamma
    inside = np.clip(np.linalg.inv(np.array(SRGB).T) @ np.array(primaries).T @ linear, 0, 1)
    shown = np.where(inside <= 0.0031308, inside * 12.92, 1.055 * inside ** (1 / 2.4) - 0.055)
    return [int(level) for level in (shown * 255).round()]


def _linear(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB's curve (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _numbers(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def _xyz(*numbers: float) -> bytes:
    return b"XYZ \0\0\0\0" + _numbers(*numbers)


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"curv" + struct.pack(">4xIH", 1, round(gamma * 256))
    steps = _linear(np.arange(1024) / 1023)
    return b"curv" + struct.pack(">4xI", 1024) + (steps * 65535).round().astype(">u2").tobytes()
