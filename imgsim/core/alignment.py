"""Laying pictures over each other: how a piece of one lies in another, and how well the two then agree.

Two grids of grey levels are taken for a piece of one another, mirrored or not, and what is left of an affine map
is found by Gauss-Newton steps on the squared difference, with gain and offset free (Baker and Matthews, "Lucas-Kanade
20 Years On", 2004). The steps begin at the best of the pieces that lose 0, 10 or 20 % of the width and the height.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgsim.core.fingerprints import SIDE, Fingerprint, Levels, dct

_STEPS = 2  # on each grid
_LEAST = 0.6, 0.8, 0.88
"""Correlations before the steps on each grid, below which nothing comes of them."""
_LEAST_SHARED = 0.5
_ALL = slice(None)
_LONGEST_STEP = 0.1

Map = NDArray[np.float32]
"""``(n, 6)``: a b c d e f, from (x, y) of one grid to (ax + by + c, dx + ey + f) of the other; centred, sides 1."""


class Fit(NamedTuple):
    """How a picture lies over others, each ``(n,)`` float32."""

    detail: NDArray[np.float32]
    """Correlation of what is finer than 1/64 of a side where they overlap, -1 to 1; -1 where nothing fits."""
    distortion: NDArray[np.float32]
    """How far the map is from moving, turning and scaling alike in both directions: 0 for none."""


class _Pictures:
    """Fingerprints as grids of any size: the lowest frequencies give a small one."""

    def __init__(self, fingerprints: Sequence[Fingerprint], mirrored: bool = False) -> None:
        """`mirrored`: the mirror images too, after all others."""
        spectra = np.stack([each.coefficients for each in fingerprints]).astype(np.float32)
        spectra /= np.sqrt((spectra**2).sum((1, 2), keepdims=True)).clip(1)
        self._spectra = np.concatenate((spectra, spectra * _MIRROR)) if mirrored else spectra

    def grids(self, side: int, chosen: NDArray[np.intp] | slice = _ALL) -> Levels:
        """``(n, side, side)`` of those chosen."""
        return _grids(self._spectra[chosen, :side, :side], side)

    def detail(self, chosen: NDArray[np.intp]) -> Levels:
        """``(n, 64, 64)``: what is finer than 1/64 of a side."""
        return _grids(self._spectra[chosen] * _FINE, SIDE)


def fit(picture: Fingerprint, others: Sequence[Fingerprint]) -> Fit:
    """How `picture` lies over each of `others`."""
    found = Fit(np.full(len(others), -1, np.float32), np.full(len(others), np.inf, np.float32))
    if not others:
        return found
    both, many = _Pictures([picture], mirrored=True), _Pictures(others)
    chosen = np.arange(len(others))
    maps, way, score = _START.best(many.grids(_START.side), both.grids(_START.side))
    for grid, least in zip((_START, _MIDDLE, _LAST), _LEAST, strict=True):
        keep = score >= least
        chosen, maps, way = chosen[keep], maps[keep], way[keep]
        if not len(chosen):
            return found
        maps, score = grid.refine(many.grids(grid.side, chosen), both.grids(grid.side)[way], maps)
    laid, mask = _LAST.laid(many.detail(chosen), maps)
    found.detail[chosen] = _correlation(laid, both.detail(way).reshape(laid.shape), mask)
    aspects = np.array([each.aspect for each in others], np.float32)[chosen]
    found.distortion[chosen] = _distortion(maps, aspects, picture.aspect)
    return found


class _Grid:
    def __init__(self, side: int) -> None:
        self.side = side
        ticks = ((np.arange(side) + 0.5) / side - 0.5).astype(np.float32)
        self.y, self.x = (axis.ravel() for axis in np.meshgrid(ticks, ticks, indexing="ij"))

    def refine(self, many: Levels, one: Levels, maps: Map) -> tuple[Map, NDArray[np.float32]]:
        """`maps` after some steps, each the best on its way, with the correlations that they give."""
        best, score = maps, np.full(len(maps), -1, np.float32)
        target = one.reshape(len(maps), -1)
        for step in range(_STEPS + 1):
            laid, mask = self.laid(many, maps)
            now = np.where(mask.mean(1) >= _LEAST_SHARED, _correlation(laid, target, mask), np.float32(-1))
            best, score = np.where((now > score)[:, None], maps, best), np.maximum(now, score)
            if step < _STEPS:
                maps = _composed(maps, self._step(laid, mask, target))
        return best, score

    def _step(self, laid: Levels, mask: Levels, target: Levels) -> Map:
        """Least squares for ``target = gain * (laid + slopes @ step) + offset``."""
        grids: Levels = laid.reshape(-1, self.side, self.side)
        dx, dy = (np.gradient(grids, axis=axis).reshape(laid.shape) * (self.side * mask) for axis in (2, 1))
        columns = (dx * self.x, dx * self.y, dx, dy * self.x, dy * self.y, dy, laid * mask, mask)
        slopes = np.stack(columns, 1)
        normal = slopes @ slopes.transpose(0, 2, 1)
        # A little of a ridge: plain pictures say nothing about some of the six.
        normal += np.eye(8, dtype=np.float32) * (1e-6 + 1.25e-6 * np.trace(normal, axis1=1, axis2=2))[:, None, None]
        solved = np.linalg.solve(normal, slopes @ target[:, :, None])[:, :, 0]
        gain = solved[:, 6:7]
        step: Map = (solved[:, :6] / np.where(np.abs(gain) < 0.2, 0.2, gain)).clip(-_LONGEST_STEP, _LONGEST_STEP)
        return step

    def laid(self, many: Levels, maps: Map) -> tuple[Levels, Levels]:
        """`many` ``(n, side, side)`` as seen through `maps`, bilinear, and where there is anything to see."""
        last = np.float32(self.side - 1)
        x, y = (
            maps[:, i : i + 1] * (self.x * self.side)
            + maps[:, i + 1 : i + 2] * (self.y * self.side)
            + (maps[:, i + 2 : i + 3] * self.side + last / 2)
            for i in (0, 3)
        )
        mask = ((np.abs(x - last / 2) <= self.side / 2) & (np.abs(y - last / 2) <= self.side / 2)).astype(np.float32)
        np.clip(x, 0, last - np.float32(1e-3), out=x)
        np.clip(y, 0, last - np.float32(1e-3), out=y)
        left, top = x.astype(np.int32), y.astype(np.int32)
        x -= left
        y -= top
        at = top * self.side + left + np.arange(len(maps), dtype=np.int32)[:, None] * self.side**2
        flat = np.ascontiguousarray(many).reshape(-1)
        upper, lower = flat.take(at), flat.take(at + self.side)
        upper += (flat.take(at + 1) - upper) * x
        lower += (flat.take(at + (self.side + 1)) - lower) * x
        return upper + (lower - upper) * y, mask


class _StartGrid(_Grid):
    """Coarse enough to try all pieces."""

    def __init__(self, side: int) -> None:
        super().__init__(side)
        windows = [(1.0, 0.0), *((0.9, at) for at in (0, 0.05, 0.1)), *((0.8, at) for at in (0, 0.05, 0.1, 0.15, 0.2))]
        pairs = [(v, h) for v in range(len(windows)) for h in range(len(windows)) if windows[v][0] == windows[h][0]]
        self._down, self._across = np.array(pairs).T
        self._cuts = np.stack([_cut(side, size, at) for size, at in windows])
        centres = [(windows[v][0], windows[h][1], windows[v][1]) for v, h in pairs]
        pieces = np.array([[s, 0, x + s / 2 - 0.5, 0, s, y + s / 2 - 0.5] for s, x, y in centres])
        around = [[1 / s, 0, -x / s, 0, 1 / s, -y / s] for s, _, x, _, _, y in pieces]
        self._maps = np.concatenate((pieces, around)).astype(np.float32)

    def best(self, many: Levels, ways: Levels) -> tuple[Map, NDArray[np.intp], NDArray[np.float32]]:
        """For each of `many` ``(n, side, side)`` the map by which one of `ways` is a piece of it, or it one of that;
        which one; and the correlation."""
        cut, cut_ways = self._all_cuts(many), self._all_cuts(ways)
        theirs = (cut @ cut_ways[:, 0].T).transpose(0, 2, 1)
        # A matrix for each: of one for all, BLAS would make threads.
        ours = (cut[:, :1] @ cut_ways.reshape(-1, self.side**2).T).reshape(theirs.shape)
        scores = np.concatenate((theirs, ours), 2).reshape(len(many), -1)
        best = scores.argmax(1)
        return self._maps[best % len(self._maps)], best // len(self._maps), scores[np.arange(len(many)), best]

    def _all_cuts(self, levels: Levels) -> Levels:
        """``(n, pieces, side * side)``, each centred and of length 1."""
        rows = self._cuts @ levels[:, None]
        cut = (rows[:, self._down] @ self._cuts[self._across].transpose(0, 2, 1)).reshape(len(levels), -1, self.side**2)
        cut -= cut.mean(-1, keepdims=True)
        unit: Levels = cut / np.linalg.norm(cut, axis=-1, keepdims=True).clip(1e-6)
        return unit


def _composed(maps: Map, steps: Map) -> Map:
    """First a small step, then the map."""
    a, b, c, d, e, f = maps.T
    p, q, r, s, t, u = steps.T
    composed = [a + a * p + b * s, b + a * q + b * t, c + a * r + b * u]
    composed += [d + d * p + e * s, e + d * q + e * t, f + d * r + e * u]
    return np.stack(composed, 1)


def _cut(side: int, size: float, at: float) -> Levels:
    """``(side, side)``: takes `size` of a side from `at` on, and stretches it."""
    places = ((np.arange(side) + 0.5) * size + at * side - 0.5).clip(0, side - 1)
    left = np.minimum(places.astype(int), side - 2)
    cut = np.zeros((side, side), np.float32)
    cut[np.arange(side), left] = 1 - (places - left)
    cut[np.arange(side), left + 1] = places - left
    return cut


def _grids(spectra: Levels, side: int) -> Levels:
    transform = _DCT_OF[side]
    return np.asarray(transform.T @ spectra @ transform * side, np.float32)


def _correlation(laid: Levels, target: Levels, mask: Levels) -> NDArray[np.float32]:
    """Of each row of `laid` with `target`, where `mask` is 1."""
    count = mask.sum(1, keepdims=True).clip(1)
    a = (laid - (laid * mask).sum(1, keepdims=True) / count) * mask
    b = (target - (target * mask).sum(1, keepdims=True) / count) * mask
    product: NDArray[np.float32] = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1)).clip(1e-6)
    return product


def _distortion(maps: Map, many: NDArray[np.float32], one: float) -> NDArray[np.float32]:
    """0 where a map, in pixels of equal sides, only moves, turns and scales; grids are squares whatever the picture.

    For the matrix (a b; d e): the length of its part that does something else, by the length of the part that does not.
    """
    a, b, d, e = maps[:, 0] * many / one, maps[:, 1] * many, maps[:, 3] / one, maps[:, 4]
    off: NDArray[np.float32] = np.hypot(a - e, b + d) / np.hypot(a + e, b - d).clip(1e-6)
    return off


def _fine() -> Levels:
    """What is left of each frequency when a Gaussian blur of one square (1/64 of a side) is taken away."""
    blur = np.exp(-0.5 * (np.pi * np.arange(SIDE) / SIDE) ** 2)
    fine: Levels = (1 - np.outer(blur, blur)).astype(np.float32)
    return fine


_FINE = _fine()
_MIRROR = np.where(np.arange(SIDE) % 2, -1, 1).astype(np.float32)
_START, _MIDDLE, _LAST = _StartGrid(16), _Grid(32), _Grid(SIDE)
_DCT_OF: Mapping[int, Levels] = {grid.side: dct(grid.side) for grid in (_START, _MIDDLE, _LAST)}
