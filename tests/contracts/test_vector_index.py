"""What every VectorIndex promises, on every adapter; on a Qdrant server where ``IMGSIM_TEST_QDRANT_URL`` names one."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from qdrant_client import QdrantClient

from imgsim.adapters.vectors import VECTOR_INDEXES, collection_name, model_of
from imgsim.core.errors import NotSearchable, Unavailable, VectorRefused
from imgsim.core.models import Hit, Point, SearchFilter, Vector
from imgsim.core.models import Vectors as Rows
from imgsim.core.ports import VectorIndex
from imgsim.settings import Settings, Vectors

MODEL = "ViT-B-32/laion2b_s34b_b79k@1"
OTHER = "efficientnet-lite0@1"
D = 16
ANY = SearchFilter()


EMPTY: Mapping[str, Callable[[pytest.FixtureRequest, Path], str]] = {
    "qdrant-edge": lambda request, folder: f"qdrant-edge://{folder / 'vectors'}",
    "qdrant-memory": lambda request, folder: "qdrant-memory:",
    "http": lambda request, folder: emptied_qdrant(),
    "postgresql": lambda request, folder: request.getfixturevalue("postgresql").new_database(),
}
"""The URL of an index without collections, by scheme."""


def emptied_qdrant() -> str:
    """The server that is there for these tests, without imgsim's collections."""
    url = os.environ.get("IMGSIM_TEST_QDRANT_URL")
    if not url:
        pytest.skip("IMGSIM_TEST_QDRANT_URL names no Qdrant server")
    client = QdrantClient(url)
    for each in client.get_collections().collections:
        if model_of(each.name) is not None:
            client.delete_collection(each.name)
    client.close()
    return url


def make(url: str) -> VectorIndex:
    return VECTOR_INDEXES[url.partition(":")[0]](Settings(vectors=Vectors(url=url)))


def test_every_adapter_is_tested() -> None:
    assert EMPTY.keys() | {"https"} == VECTOR_INDEXES.keys()


@pytest.fixture(params=EMPTY)
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VectorIndex]:
    async with make(EMPTY[request.param](request, tmp_path)) as opened:
        await opened.open_collection(MODEL, D)
        yield opened


def unit(n: int, dimensions: int = D, seed: int = 0) -> Rows:
    rows = np.random.default_rng(seed).standard_normal((n, dimensions)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def axis(*values: float) -> Vector:
    """A vector with `values` in its first dimensions and 0 in all others."""
    return np.array([*values, *[0.0] * (D - len(values))], dtype=np.float32)


def points(vectors: Rows, first: int = 1, collection: str = "default", tags: Sequence[str] = ()) -> list[Point]:
    return [Point(UUID(int=first + n), vector, collection, tags) for n, vector in enumerate(vectors)]


async def all_ids(index: VectorIndex, model: str = MODEL) -> list[int]:
    return sorted([each.int async for each in index.ids(model)])


async def query_ids(index: VectorIndex, where: SearchFilter = ANY, vector: Vector | None = None) -> list[int]:
    hits = await index.query(MODEL, axis(1) if vector is None else vector, 100, where)
    return sorted(hit.id.int for hit in hits)


async def test_open_collection_again_keeps_the_points(index: VectorIndex) -> None:
    await index.upsert(MODEL, points(unit(3)))
    await index.open_collection(MODEL, D)
    assert await index.count(MODEL) == 3


async def test_open_collection_with_other_dimensions_is_refused(index: VectorIndex) -> None:
    with pytest.raises(VectorRefused, match=f"{D} dimensions, not 32"):
        await index.open_collection(MODEL, 32)
    await index.upsert(MODEL, points(unit(1)))


async def test_open_collection_by_many_at_once_makes_one(index: VectorIndex) -> None:
    await asyncio.gather(*[index.open_collection(OTHER, 8) for _ in range(8)])
    assert await index.models() == sorted([MODEL, OTHER])


async def test_models_may_have_any_name(index: VectorIndex) -> None:
    names = ["live", "..", "a=2Fb", "a/b", "ViT-B-32//home/x y/50%.pt@ab12", "模型", "imgsim-live"]
    for name in names:
        await index.open_collection(name, 4)
        await index.upsert(name, points(unit(1, 4)))
    assert await index.models() == sorted([MODEL, *names])
    assert [model_of(collection_name(name)) for name in names] == names


async def test_live_is_none_then_what_was_set_last(index: VectorIndex) -> None:
    assert await index.live() is None
    await index.open_collection(OTHER, 8)
    for model in (MODEL, OTHER, OTHER):
        await index.set_live(model)
        assert await index.live() == model
    with pytest.raises(NotSearchable, match="nobody"):
        await index.set_live("nobody")
    assert await index.live() == OTHER
    assert await index.models() == sorted([MODEL, OTHER])


async def test_upsert_replaces_all_of_a_point(index: VectorIndex) -> None:
    point = Point(UUID(int=1), axis(1), "cats", ("x",))
    await index.upsert(MODEL, [point])
    await index.upsert(MODEL, [replace(point, vector=axis(0, 1), collection="dogs", tags=("y",))])
    assert await index.count(MODEL) == 1
    assert (await index.query(MODEL, axis(1), 5, SearchFilter("dogs", ("y",))))[0].score == pytest.approx(0)
    assert await query_ids(index, SearchFilter("cats")) == []
    assert await query_ids(index, SearchFilter(None, ("x",))) == []


async def test_upsert_takes_the_last_of_the_same_id(index: VectorIndex) -> None:
    point = Point(UUID(int=1), axis(1), "default")
    await index.upsert(MODEL, [point, replace(point, vector=axis(0, 1))])
    assert await index.fetch(MODEL, [point.id]) == {point.id: pytest.approx(axis(0, 1))}


async def test_upsert_of_nothing_does_nothing(index: VectorIndex) -> None:
    await index.upsert(MODEL, [])
    assert await index.count(MODEL) == 0


@pytest.mark.parametrize("vector", [axis(np.nan), axis(np.inf), axis(1)[:-1], axis(1)[None], np.zeros(0)], ids=repr)
async def test_refused_vectors_are_neither_stored_nor_asked(index: VectorIndex, vector: Vector) -> None:
    good, bad = points(unit(1))[0], Point(UUID(int=9), vector, "default")
    with pytest.raises(VectorRefused, match=MODEL):
        await index.upsert(MODEL, [good, bad])
    assert await index.count(MODEL) == 0
    with pytest.raises(VectorRefused, match=MODEL):
        await index.query(MODEL, vector, 10, ANY)


async def test_query_gives_the_best_by_cosine(index: VectorIndex) -> None:
    rows, asked = unit(200), unit(1, seed=1)[0]
    await index.upsert(MODEL, points(rows))
    hits = await index.query(MODEL, asked, 10, ANY)
    scores = rows @ asked
    assert [hit.id.int - 1 for hit in hits] == np.argsort(-scores)[:10].tolist()
    assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1][:10], abs=1e-5)
    assert len(await index.query(MODEL, asked, 1000, ANY)) == 200


async def test_query_orders_ties_by_id_and_keeps_scores_in_range(index: VectorIndex) -> None:
    vector = unit(1)[0]
    await index.upsert(MODEL, points(np.stack([vector] * 20 + [-vector] * 20))[::-1])
    hits = await index.query(MODEL, vector, 40, ANY)
    assert [hit.id.int for hit in hits] == list(range(1, 41))
    assert all(-1 <= hit.score <= 1 for hit in hits)


async def test_query_leaves_out_what_scores_below_min_score(index: VectorIndex) -> None:
    await index.upsert(MODEL, points(np.stack([axis(1), axis(0.6, 0.8), axis(0, 1), axis(-1)])))
    for min_score, expected in ((None, 4), (-1.0, 4), (0.0, 3), (0.59, 2), (0.61, 1), (1.0, 1)):
        assert len(await index.query(MODEL, axis(1), 10, ANY, min_score)) == expected
    assert await index.query(MODEL, axis(0, 0, 1), 10, ANY, 0.1) == []


async def test_query_filters_by_collection_and_by_all_tags(index: VectorIndex) -> None:
    rows = unit(6)
    await index.upsert(MODEL, points(rows[:2], 1, "cats", ("red", "old")))
    await index.upsert(MODEL, points(rows[2:4], 3, "cats", ("red",)))
    await index.upsert(MODEL, points(rows[4:], 5, "dogs", ("old", "red")))
    assert await query_ids(index) == [1, 2, 3, 4, 5, 6]
    assert await query_ids(index, SearchFilter("cats")) == [1, 2, 3, 4]
    assert await query_ids(index, SearchFilter(None, ("old", "red"))) == [1, 2, 5, 6]
    assert await query_ids(index, SearchFilter("dogs", ("red",))) == [5, 6]
    assert await query_ids(index, SearchFilter("dogs", ("red", "new"))) == []
    assert await query_ids(index, SearchFilter("")) == []


async def test_query_of_an_empty_collection_is_empty(index: VectorIndex) -> None:
    assert list(await index.query(MODEL, axis(1), 10, ANY)) == []


async def test_fetch_gives_those_that_are_there(index: VectorIndex) -> None:
    stored = points(unit(300))
    await index.upsert(MODEL, stored)
    found = await index.fetch(MODEL, [point.id for point in stored] + [UUID(int=999)])
    assert found.keys() == {point.id for point in stored}
    for point in stored:
        assert found[point.id].dtype == np.float32
        np.testing.assert_allclose(found[point.id], point.vector, atol=1e-6)
    assert await index.fetch(MODEL, []) == {}


async def test_query_filters_by_any_and_by_no_tag(index: VectorIndex) -> None:
    rows = unit(4)
    for n, tags in enumerate((["red"], ["red", "old"], ["old", "new"], []), 1):
        await index.upsert(MODEL, points(rows[n - 1 : n], n, "cats", tags))
    assert await query_ids(index, SearchFilter(any_tags=("red", "new"))) == [1, 2, 3]
    assert await query_ids(index, SearchFilter(any_tags=("blue",))) == []
    assert await query_ids(index, SearchFilter(no_tags=("old", "blue"))) == [1, 4]
    assert await query_ids(index, SearchFilter("cats", ("red",), ("old", "new"), ("blue",))) == [2]
    assert await query_ids(index, SearchFilter("cats", ("red",), ("old",), ("old",))) == []


async def test_query_filters_by_date_to_the_microsecond(index: VectorIndex) -> None:
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    step = timedelta(microseconds=1)
    rows = unit(5)
    await index.upsert(MODEL, [Point(UUID(int=n + 1), rows[n], "c", (), noon + n * step) for n in range(4)])
    await index.upsert(MODEL, [Point(UUID(int=5), rows[4], "c")])  # without a date
    assert await query_ids(index, SearchFilter(created_from=noon + step)) == [2, 3, 4]
    assert await query_ids(index, SearchFilter(created_to=noon + step)) == [1]
    assert await query_ids(index, SearchFilter(created_from=noon + step, created_to=noon + 3 * step)) == [2, 3]
    elsewhere = (noon + step).astimezone(timezone(timedelta(hours=-9)))
    assert await query_ids(index, SearchFilter(created_from=elsewhere)) == [2, 3, 4]
    assert await query_ids(index, SearchFilter(created_from=datetime.max.replace(tzinfo=UTC))) == []
    assert await query_ids(index, SearchFilter(created_from=datetime.min.replace(tzinfo=UTC))) == [1, 2, 3, 4]


async def test_query_filters_by_metadata(index: VectorIndex) -> None:
    long = "x" * 10_000
    stored: list[Mapping[str, Any]] = [
        {"album": 7, "by": "Ann", "list": [1], "deep": {"album": 8}},
        {"album": 7.0, "by": "Ann", "hidden": True, "none": None},
        {"album": "7", 'a":1,"b': 2, "zero": 0, "long": long},
        {"album": 1, "hidden": 1, "zero": False, "long": long + "y"},
    ]
    for n, (vector, metadata) in enumerate(zip(unit(4), stored, strict=True), 1):
        await index.upsert(MODEL, [Point(UUID(int=n), vector, "c", metadata=metadata)])
    expected: list[tuple[Mapping[str, Any], list[int]]] = [
        ({"album": 7}, [1, 2]), ({"album": 7.0, "by": "Ann"}, [1, 2]), ({"album": "7"}, [3]), ({"by": "ann"}, []),
        ({"hidden": True}, [2]), ({"hidden": 1}, [4]), ({"none": None}, [2]), ({"zero": 0}, [3]),
        ({"zero": False}, [4]), ({"a": 1}, []), ({'a":1,"b': 2}, [3]), ({"long": long}, [3]), ({"nowhere": None}, []),
        ({"list": 1}, []),
    ]  # fmt: skip
    for wanted, ids in expected:
        assert await query_ids(index, SearchFilter(metadata=wanted)) == ids, str(wanted)[:80]


async def test_exact_finds_the_same_with_every_filter(index: VectorIndex) -> None:
    rows, asked = unit(300), unit(1, seed=1)[0]
    await index.upsert(MODEL, points(rows[:150], 1, "cats", ("red",)))
    await index.upsert(MODEL, points(rows[150:], 151, "dogs"))
    for where, passing in ((ANY, rows), (SearchFilter("cats", ("red",)), rows[:150])):
        hits = await index.query(MODEL, asked, 10, where, 0.1, exact=True)
        best = [n for n in np.argsort(-(passing @ asked))[:10] if passing[n] @ asked >= 0.1]
        assert [hit.id.int - 1 for hit in hits] == best
        assert [hit.score for hit in hits] == pytest.approx([passing[n] @ asked for n in best], abs=1e-6)


async def test_a_sample_is_drawn_at_random_without_repeats(index: VectorIndex) -> None:
    rows = unit(400)
    await index.upsert(MODEL, points(rows[:300], 1, "cats"))
    await index.upsert(MODEL, points(rows[300:], 301, "dogs"))

    async def drawn(collection: str | None, n: int) -> set[int]:
        sample = await index.sample(MODEL, collection, n)
        assert sample.dtype == np.float32
        assert sample.shape[1] == D
        numbers = np.argmax(sample @ rows.T, axis=1)
        np.testing.assert_allclose(sample, rows[numbers], atol=1e-6)
        assert len(set(numbers)) == len(sample)
        return set(numbers.tolist())

    assert await drawn("cats", 1_000) == set(range(300))
    assert await drawn("dogs", 100) == set(range(300, 400))
    assert await drawn("birds", 10) == set()
    some = [await drawn(None, 100) for _ in range(5)]
    assert [len(each) for each in some] == [100] * 5
    assert some[0] != some[1]
    assert 25 < len(set.union(*some) & set(range(300, 400))) < 100  # of 100, each drawn five times with a chance of 1/4
    assert len(set.union(*some)) > 250


async def test_set_payload_replaces_tags_and_metadata_and_nothing_else(index: VectorIndex) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    await index.upsert(MODEL, [Point(UUID(int=1), axis(1), "cats", ("a", "b"), now, {"x": 1, "y": 2})])
    await index.set_payload(MODEL, UUID(int=1), ["b", "c"], {"y": 3})
    assert await query_ids(index, SearchFilter("cats", ("b", "c"), (), (), now, None, {"y": 3})) == [1]
    for gone in (SearchFilter(None, ("a",)), SearchFilter(metadata={"x": 1}), SearchFilter(metadata={"y": 2})):
        assert await query_ids(index, gone) == []
    await index.set_payload(MODEL, UUID(int=1), [], {})
    for gone in (SearchFilter(None, ("b",)), SearchFilter(metadata={"y": 3})):
        assert await query_ids(index, gone) == []
    assert (await index.query(MODEL, axis(1), 1, SearchFilter("cats", created_from=now)))[0].score == pytest.approx(1)


async def test_set_payload_of_a_missing_point_does_nothing(index: VectorIndex) -> None:
    await index.set_payload(MODEL, UUID(int=1), ["a"], {"x": 1})
    assert await index.count(MODEL) == 0


async def test_delete_removes_from_every_collection(index: VectorIndex) -> None:
    await index.open_collection(OTHER, 8)
    await index.upsert(MODEL, points(unit(4)))
    await index.upsert(OTHER, points(unit(4, 8)))
    for _ in range(2):
        await index.delete([UUID(int=2), UUID(int=3), UUID(int=77)])
        assert await all_ids(index) == await all_ids(index, OTHER) == [1, 4]
    await index.delete([])
    assert await index.count(MODEL) == await index.count(OTHER) == 2


async def test_ids_and_count_of_more_than_two_pages(index: VectorIndex) -> None:
    assert await all_ids(index) == []
    await index.upsert(MODEL, points(unit(2_345)))
    assert await all_ids(index) == list(range(1, 2_346))
    assert await index.count(MODEL) == 2_345


async def test_a_model_without_a_collection_is_not_searchable(index: VectorIndex) -> None:
    calls = [
        index.upsert("none", points(unit(1))),
        index.query("none", axis(1), 1, ANY),
        index.fetch("none", [UUID(int=1)]),
        index.set_payload("none", UUID(int=1), [], {}),
        index.sample("none", None, 1),
        index.count("none"),
        all_ids(index, "none"),
    ]
    for call in calls:
        with pytest.raises(NotSearchable, match="'none'"):
            await call


async def test_callers_at_the_same_time_get_their_own_answers(index: VectorIndex) -> None:
    rows = unit(150)

    async def one(n: int) -> None:
        point = Point(UUID(int=n + 1), rows[n], "default")
        if n % 50 == 7:
            with pytest.raises(VectorRefused):
                await index.upsert(MODEL, [replace(point, vector=rows[n] * np.nan)])
        await index.upsert(MODEL, [point])
        best = (await index.query(MODEL, rows[n], 1, ANY))[0]
        assert best.id == point.id
        assert best.score == pytest.approx(1, abs=1e-5)
        if n % 3 == 0:
            await index.delete([point.id])
            assert await index.fetch(MODEL, [point.id]) == {}

    await asyncio.gather(*[one(n) for n in range(150)])
    assert await all_ids(index) == [n + 1 for n in range(150) if n % 3]


async def test_ping_answers_while_open(index: VectorIndex) -> None:
    await index.ping()
    await index.__aexit__(None, None, None)
    with pytest.raises(Unavailable):
        await index.ping()


class Model:
    """The plainest index there is: what the operations mean."""

    def __init__(self) -> None:
        self.points: dict[UUID, Point] = {}

    def query(self, vector: Vector, limit: int, where: SearchFilter, min_score: float | None) -> list[Hit]:
        passing = [
            Hit(point.id, float(point.vector @ vector)) for point in self.points.values() if passes(point, where)
        ]
        best = sorted(passing, key=lambda hit: (-hit.score, str(hit.id)))[:limit]
        return [hit for hit in best if min_score is None or hit.score >= min_score]


def passes(point: Point, where: SearchFilter) -> bool:
    tags, created = set(point.tags), point.created_at
    return (
        where.collection in (None, point.collection)
        and set(where.tags) <= tags
        and (not where.any_tags or bool(set(where.any_tags) & tags))
        and not set(where.no_tags) & tags
        and (where.created_from is None or (created is not None and created >= where.created_from))
        and (where.created_to is None or (created is not None and created < where.created_to))
        and where.metadata.items() <= point.metadata.items()
    )


def same(hits: Sequence[Hit], expected: Sequence[Hit]) -> bool:
    return [hit.id for hit in hits] == [hit.id for hit in expected] and bool(
        np.allclose([hit.score for hit in hits], [hit.score for hit in expected], rtol=0, atol=1e-5)
    )


@pytest.mark.parametrize("seed", range(3))
async def test_all_adapters_agree_with_a_plain_model(request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> None:
    random, vectors = Random(seed), iter(unit(3_000, seed=seed))
    model, tags = Model(), ["a", "b", "c"]
    async with AsyncExitStack() as stack:
        indexes: Mapping[str, VectorIndex] = {
            scheme: await stack.enter_async_context(make(url(request, tmp_path)))
            for scheme, url in EMPTY.items()
            if scheme != "http" or "IMGSIM_TEST_QDRANT_URL" in os.environ
        }
        for index in indexes.values():
            await index.open_collection(MODEL, D)
        for step in range(300):
            some = [UUID(int=random.randint(1, 60)) for _ in range(random.randint(1, 5))]
            chosen = random.sample(tags, random.randint(0, 2))
            days = [None, *(datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 6))]
            where = SearchFilter(
                random.choice([None, "x", "y"]),
                tuple(chosen) if random.random() < 0.5 else (),
                tuple(random.sample(tags, random.choice([0, 0, 1, 2]))),
                tuple(random.sample(tags, random.choice([0, 0, 1]))),
                random.choice(days) if random.random() < 0.3 else None,
                random.choice(days) if random.random() < 0.3 else None,
                {"n": random.randint(0, 2)} if random.random() < 0.3 else {},
            )
            asked, limit, min_score = next(vectors), random.randint(1, 20), random.choice([None, -0.2, 0.1, 0.4])
            action = random.choice(["upsert", "upsert", "delete", "set_payload", "query", "query", "fetch"])
            labels: Mapping[str, Any] = {"n": random.randint(0, 2), "all": [some[0].int]}
            new = [
                Point(each, next(vectors), random.choice("xy"), tuple(chosen), random.choice(days), labels)
                for each in some
            ]
            if action == "upsert":
                model.points.update((point.id, point) for point in new)
            elif action == "delete":
                for each in some:
                    model.points.pop(each, None)
            elif action == "set_payload" and some[0] in model.points:
                changed = replace(model.points[some[0]], tags=tuple(chosen), metadata=labels)
                model.points[some[0]] = changed
            for scheme, index in indexes.items():
                told = f"step {step}, {action} on {scheme}"
                if action == "upsert":
                    await index.upsert(MODEL, new)
                elif action == "delete":
                    await index.delete(some)
                elif action == "set_payload":
                    await index.set_payload(MODEL, some[0], chosen, labels)
                elif action == "query":
                    hits = await index.query(MODEL, asked, limit, where, min_score, step % 2 == 0)
                    assert same(hits, model.query(asked, limit, where, min_score)), told
                else:
                    found = await index.fetch(MODEL, some)
                    assert found.keys() == model.points.keys() & set(some), told
                assert await index.count(MODEL) == len(model.points), told
        for index in indexes.values():
            assert await all_ids(index) == sorted(each.int for each in model.points)
