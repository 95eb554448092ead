"""What a score means: where it lies among the scores of random pairs of images."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsim.core.errors import ImgsimError
from imgsim.core.models import Vectors
from imgsim.core.ports import VectorIndex

log = logging.getLogger("imgsim.search")

SAMPLE = 256
"""Images drawn at random: 32,640 pairs. With 1280 dimensions that takes 15 to 20 ms, of 1,000 points as of 100,000."""

MOST_SCORES = 10_000
"""Scores that are kept of them, at even steps: a percentile has two decimals."""

MOST_COLLECTIONS = 256
"""For which these are kept, 40 kB each; the ones that were asked for last."""

GROWTH = 0.2
OLD_SECONDS = 600.0
"""They are drawn anew when the model has so much more or fewer vectors than then, or after so long."""

LOOK_SECONDS = 1.0
LOOK_SHARE = 0.001
"""How often is looked whether they should be, and how much of the time that may take."""

WAIT_SECONDS = 1.0
"""How long a search waits for the first ones; it answers without percentiles rather than later."""

_Key = tuple[str, str | None]


@dataclass(slots=True)
class _Drawn:
    """What is known of one collection."""

    scores: NDArray[np.float32]
    """Sorted; none where there are fewer than two images."""
    whole: bool
    """Whether every image was drawn: then one more or fewer makes a difference."""
    points: int | None
    """Vectors of the model at that time; None where they were not counted, for which no search waits."""
    at: float
    look_at: float


class Percentiles:
    """Of cosine similarities, by model and collection (None: over all).

    Asking costs a lookup. The first one for a collection waits until its pairs are drawn; after that they are drawn
    anew in the background, one draw at a time for a collection.
    """

    def __init__(self, vectors: VectorIndex) -> None:
        self._vectors = vectors
        self._drawn: OrderedDict[_Key, _Drawn] = OrderedDict()
        self._drawing: dict[_Key, asyncio.Task[None]] = {}

    async def of(self, model: str, collection: str | None, scores: Sequence[float]) -> list[float | None]:
        """How many of 100 random pairs score lower, of equal ones half, for each of `scores`.

        None where there are fewer than two images, or the index does not answer.
        """
        key = (model, collection)
        known = self._drawn.get(key)
        if known is None or not len(known.scores):
            await asyncio.wait([self._draw(key)], timeout=WAIT_SECONDS)
            known = self._drawn.get(key)
        elif time.monotonic() >= known.look_at:
            self._draw(key)
        if known is None or not len(known.scores):
            return [None] * len(scores)
        self._drawn.move_to_end(key)
        return _places(known.scores, scores)

    def _draw(self, key: _Key) -> asyncio.Task[None]:
        if key not in self._drawing:
            task = asyncio.create_task(self._look(*key), name="percentiles")
            self._drawing[key] = task
            task.add_done_callback(lambda _: self._drawing.pop(key))
        return self._drawing[key]

    async def _look(self, model: str, collection: str | None) -> None:
        key, start = (model, collection), time.monotonic()
        known = self._drawn.get(key)
        try:
            points = await self._vectors.count(model) if known is not None and len(known.scores) else None
            if known is None or _is_stale(known, points):
                sample = await self._vectors.sample(model, collection, SAMPLE)
                scores = await asyncio.to_thread(_scores_of_pairs, sample)
                known = _Drawn(scores, len(sample) < SAMPLE, points, start, 0.0)
            elif known.points is None:
                known.points = points
        except ImgsimError as error:
            log.warning("percentiles of %s are not brought up to date: %s", collection or "all collections", error)
        if known is not None:
            now = time.monotonic()
            known.look_at = now + max(LOOK_SECONDS, (now - start) / LOOK_SHARE)
            self._drawn[key] = known
            while len(self._drawn) > MOST_COLLECTIONS:
                self._drawn.popitem(last=False)


def _is_stale(known: _Drawn, points: int | None) -> bool:
    if points is None or time.monotonic() > known.at + OLD_SECONDS:
        return True
    if known.points is None:
        return known.whole
    changed = abs(points - known.points)
    return changed > GROWTH * known.points or (known.whole and changed > 0)


def _scores_of_pairs(vectors: Vectors) -> NDArray[np.float32]:
    """The sorted cosine similarities of all pairs of different rows, at most ``MOST_SCORES`` of them."""
    above = np.triu_indices(len(vectors), 1)
    scores = np.sort((vectors @ vectors.T)[above].clip(-1, 1))
    if len(scores) <= MOST_SCORES:
        return scores
    return scores[np.linspace(0, len(scores) - 1, MOST_SCORES).round().astype(np.intp)]


def _places(sorted_scores: NDArray[np.float32], scores: Sequence[float]) -> list[float | None]:
    asked = np.asarray(scores, dtype=np.float32)
    below = np.searchsorted(sorted_scores, asked, "left")
    not_above = np.searchsorted(sorted_scores, asked, "right")
    return [round(each, 2) for each in ((below + not_above) * (50 / len(sorted_scores))).tolist()]
