"""What PostgreSQL with pgvector promises beyond the port: many processes, outages, and the graph of many points."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import pytest

from imgsim.adapters.vectors import VECTOR_INDEXES, pgvector_tables
from imgsim.adapters.vectors.pgvector import PgvectorVectorIndex
from imgsim.core.errors import InvalidRequest, SettingsError, Unavailable
from imgsim.core.models import Point, SearchFilter
from imgsim.core.models import Vectors as Rows
from imgsim.settings import Database, Settings, Vectors
from tests.servers import PostgreSQL, free_port

MODEL = "efficientnet-lite0@1"
D = 64
ANY = SearchFilter()


def at(url: str, pool_max: int = 10) -> PgvectorVectorIndex:
    settings = Settings(vectors=Vectors(url=url), database=Database(pool_max=pool_max))
    index = VECTOR_INDEXES["postgresql"](settings)
    assert isinstance(index, PgvectorVectorIndex)
    return index


@asynccontextmanager
async def opened(url: str, dimensions: int = D) -> AsyncIterator[PgvectorVectorIndex]:
    async with at(url) as index:
        await index.open_collection(MODEL, dimensions)
        yield index


@pytest.fixture
def own() -> Iterator[PostgreSQL]:
    """A server that a test may stop."""
    with PostgreSQL() as running:
        yield running


def unit(n: int, dimensions: int = D, seed: int = 0) -> Rows:
    rows = np.random.default_rng(seed).standard_normal((n, dimensions)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def points(vectors: Rows) -> list[Point]:
    """One of ten in the collection ``few``, and one of a hundred with the tag ``rare``."""
    return [
        Point(UUID(int=n), vector, "few" if n % 10 == 0 else "most", ("rare",) if n % 100 == 0 else ("usual",))
        for n, vector in enumerate(vectors, 1)
    ]


async def recall(index: PgvectorVectorIndex, rows: Rows, where: SearchFilter, passing: Rows, k: int = 10) -> float:
    """The share of the true best `k` among the rows numbered `passing` that 30 queries find, with exact scores."""
    found = 0
    for asked in unit(30, seed=1):
        hits = await index.query(MODEL, asked, k, where)
        scores = rows @ asked
        assert len(hits) == k
        assert [hit.score for hit in hits] == pytest.approx([scores[hit.id.int - 1] for hit in hits], abs=1e-5)
        assert {hit.id.int for hit in hits} <= set(passing.tolist())
        best = passing[np.argsort(-scores[passing - 1])[:k]]
        found += len(set(best.tolist()) & {hit.id.int for hit in hits})
    return found / (30 * k)


async def test_many_points_are_searched_by_the_graph(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgvector_tables, "EXACT_ROWS", 100)
    url, rows = postgresql.new_database(), unit(3_000)
    numbers = np.arange(1, 3_001)
    async with opened(url) as index:
        await index.upsert(MODEL, points(rows))
        assert await recall(index, rows, ANY, numbers) >= 0.95
        assert await recall(index, rows, ANY, numbers, k=100) >= 0.95
        assert await recall(index, rows, SearchFilter("few"), numbers[9::10]) >= 0.95
        assert await recall(index, rows, SearchFilter("most", ("usual",)), numbers[numbers % 10 > 0]) >= 0.95
        assert await recall(index, rows, SearchFilter(None, ("rare",)), numbers[99::100]) == 1  # few: compared exactly
    (used,) = postgresql.execute(
        "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'imgsim_vectors_1_embedding_idx'", url
    )
    assert used["idx_scan"] >= 4 * 30


async def test_an_exact_query_does_not_use_the_graph(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgvector_tables, "EXACT_ROWS", 100)
    url, rows, asked = postgresql.new_database(), unit(300), unit(1, seed=1)[0]
    async with opened(url) as index:
        await index.upsert(MODEL, points(rows))
        hits = await index.query(MODEL, asked, 10, ANY, exact=True)
    assert [hit.id.int - 1 for hit in hits] == np.argsort(-(rows @ asked))[:10].tolist()
    used = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'imgsim_vectors_1_embedding_idx'"
    assert postgresql.execute(used, url)[0]["idx_scan"] == 0


async def test_a_sample_of_many_rows_reads_few_pages(postgresql: PostgreSQL) -> None:
    url, rows = postgresql.new_database(), unit(6_000, 4)
    async with opened(url, 4) as index:
        await index.upsert(MODEL, points(rows))
        postgresql.execute("ANALYZE imgsim_vectors_1", url)
        for collection, n in ((None, 20), ("most", 20), ("few", 20), ("few", 1_000)):
            sample = await index.sample(MODEL, collection, n)
            assert sample.shape == (min(n, 600 if collection == "few" else 6_000), 4)
            numbers = np.argmax(sample @ rows.T, axis=1) + 1
            assert len(set(numbers)) == len(sample)
            assert collection is None or all((n % 10 == 0) == (collection == "few") for n in numbers)


async def test_a_table_from_before_gets_its_new_columns(postgresql: PostgreSQL) -> None:
    url, rows = postgresql.new_database(), unit(2)
    async with opened(url) as index:
        await index.upsert(MODEL, points(rows[:1]))
    postgresql.execute("ALTER TABLE imgsim_vectors_1 DROP COLUMN created_at, DROP COLUMN metadata", url)
    since = datetime(2026, 1, 1, tzinfo=UTC)
    async with opened(url) as index:
        assert len(await index.query(MODEL, rows[0], 5, ANY)) == 1
        assert await index.query(MODEL, rows[0], 5, SearchFilter(metadata={"album": 7})) == []
        new = Point(UUID(int=2), rows[1], "most", (), since, {"album": 7})
        await index.upsert(MODEL, [new])
        where = SearchFilter(created_from=since, metadata={"album": 7})
        assert [hit.id for hit in await index.query(MODEL, rows[0], 5, where)] == [new.id]
    indexes = postgresql.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'imgsim_vectors_1'", url)
    assert sum("created_at" in each["indexdef"] or "metadata" in each["indexdef"] for each in indexes) == 2


async def test_what_the_graph_leaves_out_is_found_by_comparing_all(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgvector_tables, "EXACT_ROWS", 100)
    monkeypatch.setattr(pgvector_tables, "GRAPH_LIMIT", 2_000)
    rows = unit(2_500, 16)
    async with opened(postgresql.new_database(), 16) as index:
        await index.upsert(MODEL, points(rows))
        for limit in (2_000, 2_500, 100_000):  # by the graph, by comparing, and more than there are
            hits = await index.query(MODEL, rows[0], limit, ANY)
            assert len({hit.id for hit in hits}) == len(hits) == min(limit, 2_500)
        assert len(await index.query(MODEL, rows[0], 240, SearchFilter("few"))) == 240
        assert len(await index.query(MODEL, rows[0], 1_000, SearchFilter("few"))) == 250


async def test_more_dimensions_than_can_be_indexed_are_compared(postgresql: PostgreSQL) -> None:
    rows = unit(30, 4_096)
    async with opened(postgresql.new_database(), 4_096) as index:
        await index.upsert(MODEL, points(rows))
        hits = await index.query(MODEL, rows[3], 5, ANY)
        assert [hit.id.int - 1 for hit in hits] == np.argsort(-(rows @ rows[3]))[:5].tolist()


async def test_many_upserts_at_once_are_few_statements(postgresql: PostgreSQL) -> None:
    stored = points(unit(200))
    async with opened(postgresql.new_database()) as index:
        await asyncio.gather(*[index.upsert(MODEL, [point]) for point in stored])
        assert await index.count(MODEL) == 200
        collection = await index._collection(MODEL)
        assert collection.upserts.writes <= 5


async def test_what_the_database_cannot_take_fails_alone(postgresql: PostgreSQL) -> None:
    vector = unit(1)[0]
    tags = ["good", "zero\0", "half \ud800", "fine"]
    async with opened(postgresql.new_database()) as index:
        outcomes = await asyncio.gather(
            *[index.upsert(MODEL, [Point(UUID(int=n), vector, "c", (tag,))]) for n, tag in enumerate(tags)],
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [type(None), InvalidRequest, InvalidRequest, type(None)]
        assert await index.count(MODEL) == 2
        for tag in tags[1:3]:
            with pytest.raises(InvalidRequest):
                await index.query(MODEL, vector, 1, SearchFilter(None, (tag,)))
            with pytest.raises(InvalidRequest):
                await index.set_payload(MODEL, UUID(int=0), [tag], {})
        with pytest.raises(InvalidRequest):
            await index.open_collection("huge", 20_000)
        assert await index.models() == [MODEL]


async def test_a_vector_without_direction_scores_0(postgresql: PostgreSQL) -> None:
    async with opened(postgresql.new_database()) as index:
        await index.upsert(MODEL, [Point(UUID(int=1), np.zeros(D, np.float32), "c")])
        assert [hit.score for hit in await index.query(MODEL, unit(1)[0], 5, ANY)] == [0.0]


async def test_many_processes_may_start_on_an_empty_database_at_once(postgresql: PostgreSQL) -> None:
    url = postgresql.new_database()

    async def start(n: int) -> None:
        async with at(url, pool_max=2) as index:
            await index.open_collection(MODEL, D)
            await index.set_live(MODEL)
            await index.upsert(MODEL, [Point(UUID(int=n + 1), vector, "c") for vector in unit(1)])
            assert await index.live() == MODEL

    await asyncio.gather(*[start(n) for n in range(4)])
    async with at(url) as index:
        assert await index.models() == [MODEL]
        assert await index.count(MODEL) == 4


async def test_processes_that_write_and_delete_the_same_points_do_not_block_each_other(postgresql: PostgreSQL) -> None:
    url, stored = postgresql.new_database(), points(unit(60))
    async with opened(url) as one, opened(url) as other:
        for index, ordered in ((one, stored), (other, stored[::-1])):
            assert await index.live() is None
            await index.upsert(MODEL, ordered)
        ids = [point.id for point in stored]
        for _ in range(10):
            await asyncio.gather(
                one.upsert(MODEL, stored), other.upsert(MODEL, stored[::-1]), one.delete(ids), other.delete(ids[::-1])
            )
        await asyncio.gather(*[index.set_live(MODEL) for index in (one, other) * 5])
        assert await other.live() == MODEL


async def test_a_restarted_server_goes_unnoticed(own: PostgreSQL) -> None:
    stored = points(unit(50))
    async with opened(own.url) as index:
        await asyncio.gather(*[index.upsert(MODEL, [point]) for point in stored])  # over several connections
        await asyncio.gather(*[index.ping() for _ in range(8)])
        await asyncio.to_thread(own.restart)
        assert len(await index.query(MODEL, stored[0].vector, 100, ANY)) == 50
        await asyncio.to_thread(own.restart)
        await asyncio.gather(*[index.upsert(MODEL, [point]) for point in stored])
        assert await index.count(MODEL) == 50


async def test_a_killed_server_is_unavailable_and_loses_nothing_acknowledged(own: PostgreSQL) -> None:
    stored = points(unit(1_000))
    async with opened(own.url) as index:
        acknowledged: set[UUID] = set()

        async def write(point: Point) -> None:
            await index.upsert(MODEL, [point])
            acknowledged.add(point.id)

        writes = [asyncio.create_task(write(point)) for point in stored]
        await asyncio.wait(writes, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(own.kill)
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {type(None), Unavailable}
        start = time.monotonic()
        for call in (index.ping(), index.upsert(MODEL, stored), index.query(MODEL, stored[0].vector, 1, ANY)):
            with pytest.raises(Unavailable, match="cannot be reached"):
                await call
        assert time.monotonic() - start < 5
        await asyncio.to_thread(own.start)
        assert acknowledged <= {each async for each in index.ids(MODEL)}
        await index.upsert(MODEL, stored)
        assert await index.count(MODEL) == 1_000


async def test_a_server_that_is_away_at_the_start_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        async with at(f"postgresql://imgsim:geheim@127.0.0.1:{free_port()}/imgsim"):
            pass
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql://u:geheim@host:port/x", "postgresql://u:geheim@h/x?sslmode=y"])
async def test_a_url_that_is_none_names_the_setting_and_no_password(url: str) -> None:
    with pytest.raises(SettingsError, match=r"vectors\.url") as caught:
        async with at(url):
            pass
    assert "geheim" not in str(caught.value)


async def test_a_database_that_may_not_have_the_extension_says_what_to_do(postgresql: PostgreSQL) -> None:
    url = postgresql.new_database()
    name = url.rpartition("/")[2]
    postgresql.execute("CREATE ROLE guest LOGIN", url)
    with pytest.raises(SettingsError, match="CREATE EXTENSION vector"):
        async with at(url.replace("imgsim@", "guest@")):
            pass
    postgresql.execute("CREATE EXTENSION vector", url)
    postgresql.execute(f"GRANT CREATE ON DATABASE {name} TO guest", url)
    postgresql.execute("GRANT CREATE ON SCHEMA public TO guest", url)
    async with opened(url.replace("imgsim@", "guest@")) as index:
        await index.upsert(MODEL, points(unit(2)))
        assert await index.count(MODEL) == 2
