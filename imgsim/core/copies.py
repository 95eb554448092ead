"""Telling copies from look-alikes, by their fingerprints.

Measured with ``python -m tests.benchmarks.copies`` (README, Benchmarks). No threshold depends on the model: its
embeddings only say which images are worth comparing.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imgsim.core.alignment import fit
from imgsim.core.fingerprints import Fingerprint
from imgsim.core.models import Image

MOST_BITS = 48
"""Of 256 bits of PDQ that may differ, in the best of eight orientations; different photographs begin at 64."""
LEAST_QUALITY = 20
"""PDQ's quality of both pictures from which on its hash is trusted."""
LEAST_DETAIL = 0.5
"""Correlation of the fine detail when one lies over the other; different photographs seldom reach 0.4."""
MOST_DISTORTION = 0.006
"""A copy is cut, turned and scaled. Photographs of one thing, taken one after the other, lie over each other only
when they are also bent: the detail of some agrees as well as that of copies."""
LEAST_SCORE = 0.6
"""Cosine from which on two images are worth comparing: with the packaged model, 1 copy of 1000 is less like its
original; other models give higher ones."""
_NEAREST = 2
_AT_ONCE = 16
"""Pairs that are compared at once: 1.5 MB each."""


def copies_among(picture: Fingerprint | None, others: Sequence[Fingerprint | None]) -> list[bool]:
    """Which of `others` are copies of `picture`, or it of them. 0.1 ms of CPU for each."""
    found = [False] * len(others)
    if picture is None:
        return found
    there = [(place, other) for place, other in enumerate(others) if other is not None]
    for start in range(0, len(there), _AT_ONCE):
        places = [place for place, _ in there[start : start + _AT_ONCE]]
        group = [other for _, other in there[start : start + _AT_ONCE]]
        alike = _alike(picture, group)
        rest = [i for i in range(len(group)) if not alike[i]]
        alike[rest] = _lie_over(picture, [group[i] for i in rest])
        for place, is_copy in zip(places, alike, strict=True):
            found[place] = bool(is_copy)
    return found


def first_copies(picture: Fingerprint, others: Sequence[Fingerprint]) -> list[int]:
    """Places in `others`, nearest first, of copies of `picture`: those that the hash tells, else those among the
    nearest two, else those among the rest. Laying pictures over each other takes time, and one copy leads to most
    others: to all that were found to be copies of it."""
    if others and (alike := np.flatnonzero(_alike(picture, others))).size:
        return [int(place) for place in alike]
    for start, end in ((0, _NEAREST), (_NEAREST, len(others))):
        if (found := np.flatnonzero(_lie_over(picture, others[start:end]))).size:
            return [start + int(place) for place in found]
    return []


def fingerprint_of(image: Image) -> Fingerprint | None:
    """What the stage ``fingerprint`` found; None where it has not run, or before it was there."""
    return Fingerprint.from_json(image.features.get("fingerprint"))


def bits_apart(picture: Fingerprint, others: Sequence[Fingerprint]) -> NDArray[np.int_]:
    """How many of the 256 bits of PDQ differ, in the best of eight orientations; ``(n,)``."""
    # As signs, so that one product counts them all: each numpy call costs the other threads a turn at Python's lock.
    hashes = _signs(np.stack([other.pdq for other in others]))
    alike = hashes @ (_signs(np.stack((picture.pdq, picture.pdq.T)))[:, None] * _FLIPS).reshape(-1, _BITS).T
    apart: NDArray[np.int_] = ((_BITS - alike.max(1)) / 2).astype(int)
    return apart


def _signs(hashes: NDArray[np.bool_]) -> NDArray[np.float32]:
    """``(n, 256)``: 1 for a bit that is set, -1 for others."""
    signs: NDArray[np.float32] = hashes.reshape(len(hashes), _BITS) * np.float32(2) - np.float32(1)
    return signs


def _flips() -> NDArray[np.float32]:
    """``(4, 256)``, -1 for the bits that change in the picture as it is, mirrored, upside down and turned by half: a
    mirror image changes the sign of every other frequency. The coefficients' median is taken for 0, which costs a
    few bits."""
    side = math.isqrt(_BITS)
    odd = np.where(np.arange(side) % 2, 1, -1)  # the first is that of frequency 1
    across, down = np.broadcast_to(odd, (side, side)), np.broadcast_to(odd[:, None], (side, side))
    flips = np.stack((np.ones((side, side)), across, down, across * down))
    return flips.reshape(-1, _BITS).astype(np.float32)


_BITS = 256
_FLIPS = _flips()


def _alike(picture: Fingerprint, others: Sequence[Fingerprint]) -> NDArray[np.bool_]:
    quality = np.array([min(picture.quality, other.quality) for other in others])
    alike: NDArray[np.bool_] = (bits_apart(picture, others) <= MOST_BITS) & (quality >= LEAST_QUALITY)
    return alike


def _lie_over(picture: Fingerprint, others: Sequence[Fingerprint]) -> NDArray[np.bool_]:
    fitted = fit(picture, others)
    found: NDArray[np.bool_] = (fitted.detail >= LEAST_DETAIL) & (fitted.distortion <= MOST_DISTORTION)
    return found
