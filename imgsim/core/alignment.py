"""Laying pictures over each other: how a piece of one lies in another, and how well the two then agree.

Two grids of grey levels are taken for a piece of one another, mirrored or not, and what is left of an affine map
is found by Gauss-Newton steps on the squared difference, with gain and offset free (Baker and Matthews, "Lucas-Kanade
20 Years On", 2004). The steps begin at the best of the pieces that lose 0, 10 or 20 % of the width and the height.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgsim.core.fingerprints import DCT, SIDE, Fingerprint, Levels

_START, _MIDDLE = 16, 32  # grids on which a start is looked for, and most of the steps are made
_MIDDLE_STEPS, _LAST_STEPS = 6, 4
_LEAST_AT_START, _LEAST_IN_THE_MIDDLE = 0.35, 0.7
"""Correlations below which nothing comes of further steps; of copies, 1 in 1000 is below."""
_LEAST_SHARED = 0.5
_LONGEST_STEP = 0.1

Map = NDArray[np.float32]
"""``(n, 6)``: a b c d e f, from (x, y) of one grid to (ax + by + c, dx + ey + f) of the other; centred, sides 1."""


class Fit(NamedTuple):
    """How a picture lies over others, each ``(n,)`` float32."""

    detail: NDArray[np.float32]
    """Correlation of what is finer than 1/64 of a side where they overlap, -1 to 1; -1 where nothing fits."""
    distortion: NDArray[np.float32]
    """How far the map is from moving, turning and scaling alike in both directions: 0 for none."""


class _Grids:
    """Fingerprints as grids of three sizes, and the fine detail alone."""

    def __init__(self, fingerprints: list[Fingerprint]) -> None:
        spectra = np.stack([each.coefficients for each in fingerprints]).astype(np.float32)
        spectra /= np.sqrt((spectra**2).sum((1, 2), keepdims=True)).clip(1)
        self.levels = (DCT.T @ spectra @ DCT) * SIDE
        self.detail = (DCT.T @ (spectra * _FINE) @ DCT) * SIDE
        self.middle = _halved(self.levels)
        self.start = _halved(self.middle)
        self.aspect = np.array([each.aspect for each in fingerprints], np.float32)

    def mirrored(self) -> "_Grids":
        other = object.__new__(_Grids)
        for name in ("levels", "detail", "middle", "start"):
            setattr(other, name, getattr(self, name)[:, :, ::-1])
        other.aspect = self.aspect
        return other


def fit(picture: Fingerprint, others: list[Fingerprint]) -> Fit:
    """How `picture` lies over each of `others`."""
    found = Fit(np.full(len(others), -1, np.float32), np.full(len(others), np.inf, np.float32))
    if not others:
        return found
    one, many = _Grids([picture]), _Grids(others)
    ways = [(way, *_START_GRID.best(many.start, way.start)) for way in (one, one.mirrored())]
    mirrored = ways[1][2] > ways[0][2]
    for (way, maps, scores), which in zip(ways, (~mirrored, mirrored), strict=True):
        chosen = np.flatnonzero(which & (scores >= _LEAST_AT_START))
        near, score = _MIDDLE_GRID.refine(many.middle[chosen], way.middle, maps[chosen], _MIDDLE_STEPS)
        good = score >= _LEAST_IN_THE_MIDDLE
        chosen = chosen[good]
        maps, _ = _LAST_GRID.refine(many.levels[chosen], way.levels, near[good], _LAST_STEPS)
        (laid,), mask = _LAST_GRID.laid([many.detail[chosen]], maps)
        found.detail[chosen] = _correlation(laid, way.detail.reshape(1, -1), mask)
        found.distortion[chosen] = _distortion(maps, many.aspect[chosen], way.aspect)
    return found


class _Grid:
    def __init__(self, side: int) -> None:
        self.side = side
        ticks = ((np.arange(side) + 0.5) / side - 0.5).astype(np.float32)
        self.y, self.x = (axis.ravel() for axis in np.meshgrid(ticks, ticks, indexing="ij"))
        windows = [(1.0, 0.0), *((0.9, at) for at in (0, 0.05, 0.1)), *((0.8, at) for at in (0, 0.05, 0.1, 0.15, 0.2))]
        pairs = [(v, h) for v in range(len(windows)) for h in range(len(windows)) if windows[v][0] == windows[h][0]]
        self._down, self._across = np.array(pairs).T
        self._cuts = np.stack([_cut(side, size, at) for size, at in windows])
        centres = [(windows[v][0], windows[h][1], windows[v][1]) for v, h in pairs]
        self._pieces = np.array([[s, 0, x + s / 2 - 0.5, 0, s, y + s / 2 - 0.5] for s, x, y in centres], np.float32)

    def best(self, many: Levels, one: Levels) -> tuple[Map, NDArray[np.float32]]:
        """For each of `many` ``(n, side, side)``, the map by which `one` is a piece of it, or it one of `one`."""
        cut, cut_one = self._all_cuts(many), self._all_cuts(one)
        theirs = cut @ cut_one[0, 0]
        ours = cut[:, 0] @ cut_one[0].T
        piece, around = self._pieces[theirs.argmax(1)], self._pieces[ours.argmax(1)]
        size, zero = around[:, 0], np.zeros(len(many), np.float32)
        inverse = np.stack([1 / size, zero, -around[:, 2] / size, zero, 1 / size, -around[:, 5] / size], 1)
        better = theirs.max(1) >= ours.max(1)
        return np.where(better[:, None], piece, inverse), np.maximum(theirs.max(1), ours.max(1))

    def _all_cuts(self, levels: Levels) -> Levels:
        """``(n, pieces, side * side)``, each centred and of length 1."""
        rows = self._cuts @ levels[:, None]
        cut = (rows[:, self._down] @ self._cuts[self._across].transpose(0, 2, 1)).reshape(len(levels), -1, self.side**2)
        cut -= cut.mean(-1, keepdims=True)
        unit: Levels = cut / np.linalg.norm(cut, axis=-1, keepdims=True).clip(1e-6)
        return unit

    def refine(self, many: Levels, one: Levels, maps: Map, steps: int) -> tuple[Map, NDArray[np.float32]]:
        """`maps` after `steps`, each the best on its way, with the correlations that they give."""
        best, score = maps, np.full(len(maps), -1, np.float32)
        if not len(maps):
            return best, score
        down, across = (np.asarray(slope) for slope in np.gradient(many, axis=(1, 2)))
        target = one.reshape(1, -1)
        for step in range(steps + 1):
            (laid, dx, dy), mask = self.laid([many, across, down], maps)
            now = np.where(mask.mean(1) >= _LEAST_SHARED, _correlation(laid, target, mask), -1)
            best, score = np.where((now > score)[:, None], maps, best), np.maximum(now, score)
            if step < steps:
                maps = maps + self._step(laid, dx * self.side, dy * self.side, mask, target)
        return best, score

    def _step(self, laid: Levels, dx: Levels, dy: Levels, mask: Levels, target: Levels) -> Map:
        """Least squares for ``target = gain * (laid + slopes @ step) + offset``."""
        columns = (dx * self.x, dx * self.y, dx, dy * self.x, dy * self.y, dy, laid, np.ones_like(laid))
        slopes = np.stack([column * mask for column in columns], 1)
        normal = slopes @ slopes.transpose(0, 2, 1)
        # A little of a ridge: plain pictures say nothing about some of the six.
        normal += np.eye(8, dtype=np.float32) * (1e-6 + 1.25e-6 * np.trace(normal, axis1=1, axis2=2))[:, None, None]
        solved = np.linalg.solve(normal, slopes @ target.T)[:, :, 0]
        gain = solved[:, 6:7]
        step: Map = (solved[:, :6] / np.where(np.abs(gain) < 0.2, 0.2, gain)).clip(-_LONGEST_STEP, _LONGEST_STEP)
        return step

    def laid(self, grids: list[Levels], maps: Map) -> tuple[list[Levels], Levels]:
        """Each of `grids` ``(n, side, side)`` as seen through `maps`, bilinear, and where there is anything to see."""
        last = self.side - 1
        x, y = (
            (maps[:, i : i + 1] * self.x + maps[:, i + 1 : i + 2] * self.y + maps[:, i + 2 : i + 3] + 0.5) * self.side
            - 0.5
            for i in (0, 3)
        )
        mask = ((x >= -0.5) & (x <= last + 0.5) & (y >= -0.5) & (y <= last + 0.5)).astype(np.float32)
        x, y = x.clip(0, last - 1e-3), y.clip(0, last - 1e-3)
        left, top = x.astype(np.int32), y.astype(np.int32)
        right, below = x - left, y - top
        at = np.arange(len(maps), dtype=np.int32)[:, None] * self.side**2 + top * self.side + left
        seen = []
        for grid in grids:
            flat = np.ascontiguousarray(grid).reshape(-1)
            upper = flat[at] * (1 - right) + flat[at + 1] * right
            lower = flat[at + self.side] * (1 - right) + flat[at + self.side + 1] * right
            seen.append(upper * (1 - below) + lower * below)
        return seen, mask


def _cut(side: int, size: float, at: float) -> Levels:
    """``(side, side)``: takes `size` of a side from `at` on, and stretches it."""
    places = ((np.arange(side) + 0.5) * size + at * side - 0.5).clip(0, side - 1)
    left = np.minimum(places.astype(int), side - 2)
    cut = np.zeros((side, side), np.float32)
    cut[np.arange(side), left] = 1 - (places - left)
    cut[np.arange(side), left + 1] = places - left
    return cut


def _halved(levels: Levels) -> Levels:
    n, side, _ = levels.shape
    mean: Levels = levels.reshape(n, side // 2, 2, side // 2, 2).mean((2, 4))
    return mean


def _correlation(laid: Levels, target: Levels, mask: Levels) -> NDArray[np.float32]:
    """Of each row of `laid` with `target`, where `mask` is 1."""
    count = mask.sum(1, keepdims=True).clip(1)
    a = (laid - (laid * mask).sum(1, keepdims=True) / count) * mask
    b = (target - (target * mask).sum(1, keepdims=True) / count) * mask
    product: NDArray[np.float32] = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1)).clip(1e-6)
    return product


def _distortion(maps: Map, many: NDArray[np.float32], one: NDArray[np.float32]) -> NDArray[np.float32]:
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
_START_GRID, _MIDDLE_GRID, _LAST_GRID = _Grid(_START), _Grid(_MIDDLE), _Grid(SIDE)
