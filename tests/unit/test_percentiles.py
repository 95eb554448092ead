"""What a score means among random pairs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient

from imgsim.adapters.vectors.qdrant import QdrantVectorIndex
from imgsim.core.errors import Unavailable
from imgsim.core.models import Point, Vectors
from imgsim.core.services import percentiles
from imgsim.core.services.percentiles import Percentiles

MODEL = "colour@1"
D = 8


class Index(QdrantVectorIndex):
    """Counts what it is asked, and can be away."""

    samples = 0
    away = False

    async def sample(self, model: str, collection: str | None, n: int) -> Vectors:
        if self.away:
            raise Unavailable("The index is away.")
        self.samples += 1
        return await super().sample(model, collection, n)


@asynccontextmanager
async def opened() -> AsyncIterator[Index]:
    async with Index(AsyncQdrantClient(":memory:")) as index:
        await index.open_collection(MODEL, D)
        yield index


def unit(n: int, seed: int = 0) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


async def fill(index: Index, rows: Vectors, collection: str = "c", first: int = 0) -> None:
    await index.upsert(MODEL, [Point(UUID(int=first + n), row, collection) for n, row in enumerate(rows)])


@pytest.fixture
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(percentiles, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(percentiles, "LOOK_SHARE", float("inf"))


async def drawn(of: Percentiles) -> None:
    """Return when nothing is being drawn."""
    if of._drawing:
        await asyncio.wait([*of._drawing.values()])


async def test_a_percentile_is_the_share_of_pairs_that_are_less_alike() -> None:
    rows = unit(200)
    scores = np.sort((rows @ rows.T)[np.triu_indices(200, 1)])
    async with opened() as index:
        await fill(index, rows)
        asked = [-1.0, *np.quantile(scores, [0.1, 0.5, 0.9, 0.999]).tolist(), 1.0]
        found = await Percentiles(index).of(MODEL, "c", asked)
    assert found == pytest.approx([0, 10, 50, 90, 99.9, 100], abs=0.05)
    assert all(round(place or 0, 2) == place for place in found)


async def test_a_sample_of_many_images_tells_nearly_the_same() -> None:
    rows = unit(2_000)
    scores = np.sort((rows @ rows.T)[np.triu_indices(2_000, 1)])
    async with opened() as index:
        await fill(index, rows)
        of = Percentiles(index)
        found = await of.of(MODEL, None, np.quantile(scores, [0.25, 0.5, 0.75, 0.99]).tolist())
        assert found == pytest.approx([25, 50, 75, 99], abs=3)
        assert len(of._drawn[MODEL, None].scores) == percentiles.MOST_SCORES


async def test_of_equal_scores_half_are_below() -> None:
    async with opened() as index:
        await fill(index, np.repeat(np.eye(D, dtype=np.float32)[:1], 20, axis=0))
        assert await Percentiles(index).of(MODEL, "c", [0.5, 1.0]) == [0.0, 50.0]


async def test_collections_have_their_own_and_none_is_over_all() -> None:
    near = unit(50) * 0.05 + np.eye(D, dtype=np.float32)[0]
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    async with opened() as index:
        await fill(index, near, "near")
        await fill(index, unit(50, 1), "far", 100)
        of = Percentiles(index)
        ((inside,), (outside,), (overall,)) = [await of.of(MODEL, each, [0.9]) for each in ("near", "far", None)]
        assert (inside, outside) == (0.0, pytest.approx(100, abs=0.2))
        assert overall == pytest.approx(75, abs=2)  # a quarter of all pairs are of the near ones


async def test_fewer_than_two_images_have_none_until_there_are_two() -> None:
    async with opened() as index:
        of = Percentiles(index)
        assert await of.of(MODEL, "c", [0.5]) == [None]
        await fill(index, unit(1))
        assert await of.of(MODEL, "c", [0.5]) == [None]
        await fill(index, unit(2))
        assert await of.of(MODEL, "c", [1.0]) == [100.0]


async def test_a_warm_answer_asks_the_index_for_nothing_and_many_first_ones_once() -> None:
    async with opened() as index:
        await fill(index, unit(50))
        of = Percentiles(index)
        answers = await asyncio.gather(*[of.of(MODEL, "c", [0.1]) for _ in range(20)])
        assert index.samples == 1
        assert len(set(map(tuple, answers))) == 1
        index.away = True
        assert await of.of(MODEL, "c", [0.1]) == answers[0]
        assert not of._drawing


@pytest.mark.usefixtures("looks_at_once")
async def test_they_are_drawn_anew_when_the_stock_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(percentiles, "SAMPLE", 40)
    async with opened() as index:
        await fill(index, unit(30))
        of = Percentiles(index)

        async def asked() -> int:
            await of.of(MODEL, "c", [0.1])
            await drawn(of)
            return index.samples

        assert [await asked() for _ in range(4)] == [1, 2, 2, 2]  # once more, as the first was not counted
        await fill(index, unit(1, 1), first=30)  # each counts where all of them were drawn
        assert await asked() == 3
        await fill(index, unit(69, 2), first=31)
        assert await asked() == 4
        await fill(index, unit(19, 3), first=100)  # 19 % more
        assert await asked() == 4
        await fill(index, unit(2, 4), first=119)
        assert await asked() == 5
        monkeypatch.setattr(percentiles, "OLD_SECONDS", 0.0)
        assert await asked() == 6


@pytest.mark.usefixtures("looks_at_once")
async def test_while_the_index_is_away_the_old_ones_serve_and_first_ones_are_unknown() -> None:
    async with opened() as index:
        await fill(index, unit(30))
        of = Percentiles(index)
        known = await of.of(MODEL, "c", [0.1])
        await fill(index, unit(10, 1), first=30)
        index.away = True
        assert await of.of(MODEL, "c", [0.1]) == known
        await drawn(of)
        assert await of.of(MODEL, "c", [0.1]) == known
        assert await of.of(MODEL, None, [0.1]) == [None]
        index.away = False
        assert (await of.of(MODEL, None, [0.1]))[0] is not None


async def test_a_search_does_not_wait_for_an_index_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(percentiles, "WAIT_SECONDS", 0.01)
    answering = asyncio.Event()

    async def hangs(*arguments: Any) -> Vectors:
        await answering.wait()
        return unit(30)

    async with opened() as index:
        await fill(index, unit(30))
        monkeypatch.setattr(index, "sample", hangs)
        of = Percentiles(index)
        assert await of.of(MODEL, "c", [0.1]) == [None]
        answering.set()
        await drawn(of)
        assert (await of.of(MODEL, "c", [0.1]))[0] is not None


async def test_only_so_many_collections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(percentiles, "MOST_COLLECTIONS", 2)
    async with opened() as index:
        of = Percentiles(index)
        for name in "abc":
            await fill(index, unit(5), name, ord(name) * 100)
        for name in "abac":
            await of.of(MODEL, name, [0.1])
        assert [collection for _, collection in of._drawn] == ["a", "c"]
