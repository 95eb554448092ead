"""What of a picture outlives the changes that make a copy of it: its PDQ hash, and its grey levels on a small grid.

The hash is PDQ (Facebook, ThreatExchange, "The TMK+PDQF video-hashing algorithm and the PDQ image-hashing
algorithm", 2019), but for the filter before its 64 x 64 grid, which here is the mean over a square.
"""

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 64
_PDQ_SIDE = 16
_STEP = 0.8
"""Of the quantization, in standard deviations of the levels. With half of it 4 of 1000 copies more are found."""
_LEAST_DEVIATION = 2.0
"""Of 255 levels: below, a picture is a plain area, and all plain areas would be copies of each other."""

Levels = NDArray[np.float32]


def dct(side: int) -> Levels:
    """``(side, side)``: the orthonormal discrete cosine transform; of a grid it is ``dct @ grid @ dct.T``."""
    k = np.arange(side)[:, None]
    rows = np.sqrt(2 / side) * np.cos(np.pi / (2 * side) * k * (2 * k.T + 1))
    rows[0] /= np.sqrt(2)
    transform: Levels = rows.astype(np.float32)
    return transform


_DCT = dct(SIDE)
_ORDER = np.argsort(np.add.outer(np.arange(SIDE), np.arange(SIDE)), axis=None, kind="stable")
"""The coefficients from coarse to fine, so that the zeros at the end cost nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    pdq: NDArray[np.bool_]
    """``(16, 16)``: which coefficients are above their median."""
    quality: int
    """PDQ's measure of how much there is to see, 0 to 100. Below 50 the hash says little."""
    aspect: float
    """Width by height."""
    coefficients: NDArray[np.int8]
    """``(64, 64)``, the cosine transform of the grey levels, quantized."""

    @classmethod
    def of(cls, grid: Levels, aspect: float) -> "Fingerprint | None":
        """Of the grey levels, ``(64, 64)`` float32 from 0 to 255, of the whole picture; None for a plain area."""
        deviation = float(grid.std())
        if deviation < _LEAST_DEVIATION:
            return None
        spectrum = _DCT @ grid @ _DCT.T
        low = spectrum[1 : _PDQ_SIDE + 1, 1 : _PDQ_SIDE + 1]
        slopes = [np.abs(np.diff(grid, axis=axis)) * (100 / 255) for axis in (0, 1)]
        quality = min(100, int(sum(float(np.floor(slope).sum()) for slope in slopes) / 90))
        scaled = spectrum / (deviation * _STEP)
        scaled[0, 0] = 0  # the brightness
        # Less than 0.6 of a step goes to 0: most are noise, and zeros are what makes it short.
        quantized = np.fix(scaled + np.copysign(0.4, scaled)).clip(-127, 127).astype(np.int8)
        return cls(low > np.median(low), quality, max(round(aspect, 4), 1e-4), quantized)

    def to_json(self) -> dict[str, Any]:
        """About 980 bytes, never more than 5 kB."""
        packed = np.packbits(self.pdq, bitorder="little").tobytes()
        detail = zlib.compress(self.coefficients.ravel()[_ORDER].tobytes(), 4)
        return {
            "pdq": packed[::-1].hex(),  # as ThreatExchange writes it: the last bit first
            "quality": self.quality,
            "aspect": self.aspect,
            "detail": base64.b64encode(detail).decode(),
        }

    @classmethod
    def from_json(cls, value: Any) -> "Fingerprint | None":
        """None for what ``to_json`` did not make."""
        try:
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(value["pdq"])[::-1], np.uint8), bitorder="little")
            detail = zlib.decompressobj().decompress(base64.b64decode(value["detail"]), SIDE * SIDE + 1)
            coefficients = np.empty(SIDE * SIDE, np.int8)
            coefficients[_ORDER] = np.frombuffer(detail, np.int8)
            aspect = float(value["aspect"])
            if not 0 < aspect < np.inf:
                return None
            pdq = bits.reshape(_PDQ_SIDE, _PDQ_SIDE).astype(bool)
            return cls(pdq, int(value["quality"]), aspect, coefficients.reshape(SIDE, SIDE))
        except (KeyError, TypeError, ValueError, OverflowError, zlib.error):
            return None
