"""What Qdrant Edge promises beyond the port: its files outlive the process, and the event loop goes on."""

import asyncio
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import qdrant_edge as edge

from imgsim.adapters.vectors import VECTOR_INDEXES, collection_name, edge_collection, edge_operations
from imgsim.adapters.vectors.edge_collection import Collection
from imgsim.core.errors import DataDirectoryInUse, InvalidRequest, SettingsError, Unavailable
from imgsim.core.models import Point, SearchFilter
from imgsim.core.models import Vectors as Rows
from imgsim.core.ports import VectorIndex
from imgsim.settings import Settings, Vectors

MODEL = "efficientnet-lite0@1"
ANY = SearchFilter()

WRITER = """
import asyncio, sys
from uuid import UUID
import numpy as np
from imgsim.adapters.vectors import VECTOR_INDEXES
from imgsim.core.models import Point
from imgsim.settings import Settings, Vectors

async def main():
    async with VECTOR_INDEXES["qdrant-edge"](Settings(vectors=Vectors(url=sys.argv[1]))) as index:
        await index.open_collection("efficientnet-lite0@1", 64)
        await index.set_live("efficientnet-lite0@1")
        async def write(first):
            random = np.random.default_rng(first)
            for n in range(first, 100_000, 8):
                vector = random.standard_normal(64).astype(np.float32)
                await index.upsert("efficientnet-lite0@1", [Point(UUID(int=n), vector, "default", ("new",))])
                if n % 5 == 0:
                    await index.delete([UUID(int=n)])
                elif n % 7 == 0:
                    await index.set_payload("efficientnet-lite0@1", UUID(int=n), ["old"], {})
                print(n, flush=True)
        await asyncio.gather(*[write(first) for first in range(1, 9)])

asyncio.run(main())
"""


def url(folder: Path) -> str:
    return f"qdrant-edge://{folder / 'vectors'}"


def at(url: str) -> VectorIndex:
    return VECTOR_INDEXES["qdrant-edge"](Settings(vectors=Vectors(url=url)))


@asynccontextmanager
async def opened(folder: Path, dimensions: int = 64) -> AsyncIterator[VectorIndex]:
    async with at(url(folder)) as index:
        await index.open_collection(MODEL, dimensions)
        yield index


def unit(n: int, dimensions: int = 64, seed: int = 0) -> Rows:
    rows = np.random.default_rng(seed).standard_normal((n, dimensions)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def points(vectors: Rows) -> list[Point]:
    return [Point(UUID(int=n), vector, "default", ("a",)) for n, vector in enumerate(vectors, 1)]


async def test_reopening_keeps_everything(tmp_path: Path) -> None:
    rows = unit(700)
    async with opened(tmp_path) as index:
        await index.upsert(MODEL, points(rows))
        await index.delete([UUID(int=1)])
        await index.set_payload(MODEL, UUID(int=2), ["b"], {})
        await index.set_live(MODEL)
    async with at(url(tmp_path)) as index:
        assert (await index.models(), await index.live(), await index.count(MODEL)) == ([MODEL], MODEL, 699)
        assert [hit.id.int for hit in await index.query(MODEL, rows[5], 1, SearchFilter("default", ("a",)))] == [6]
        assert [hit.id.int for hit in await index.query(MODEL, rows[5], 9, SearchFilter(None, ("b",)))] == [2]


def killed_while_writing(folder: Path) -> set[int]:
    """Kill a writer in the middle; the numbers of the points that it was told are written."""
    with subprocess.Popen([sys.executable, "-c", WRITER, url(folder)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(1_300)]  # past two flushes, and points beyond the last
        writer.kill()
        told += writer.stdout.readlines()
    return {int(line) for line in told if line.endswith("\n")}


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    acknowledged = await asyncio.to_thread(killed_while_writing, tmp_path)
    assert len(acknowledged) >= 1_300
    async with at(url(tmp_path)) as index:
        kept = {each.int async for each in index.ids(MODEL)}
        assert {n for n in acknowledged if n % 5} <= kept
        assert not {n for n in acknowledged if n % 5 == 0} & kept
        old = await index.query(MODEL, unit(1)[0], 100_000, SearchFilter(None, ("old",)))
        assert {n for n in acknowledged if n % 7 == 0 and n % 5} <= {hit.id.int for hit in old}
        assert await index.live() == MODEL


async def test_a_second_opener_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(DataDirectoryInUse, match="vectors"):
            async with opened(tmp_path):
                pass
        command = [sys.executable, "-c", WRITER, url(tmp_path)]
        other = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
        assert "DataDirectoryInUse" in other.stderr
    async with opened(tmp_path) as index:
        await index.ping()


async def test_a_half_made_collection_is_made_again(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    folder = tmp_path / "vectors" / collection_name(MODEL)
    (folder / "collection.json").unlink()
    shutil.rmtree(folder / "shard" / "segments")
    async with at(url(tmp_path)) as index:
        assert await index.models() == []
        await index.open_collection(MODEL, 8)
        await index.upsert(MODEL, points(unit(3, 8)))
    async with opened(tmp_path, 8) as index:
        assert await index.count(MODEL) == 3


async def test_a_collection_that_names_no_shard_is_opened(tmp_path: Path) -> None:
    """Before shards were optimized beside their use, there was but one."""
    async with opened(tmp_path) as index:
        await index.upsert(MODEL, points(unit(3)))
    description = tmp_path / "vectors" / collection_name(MODEL) / "collection.json"
    made = json.loads(description.read_text())
    assert made.pop("shard") == "shard"
    description.write_text(json.dumps(made))
    async with opened(tmp_path) as index:
        assert await index.count(MODEL) == 3


async def test_a_shard_from_before_gets_its_new_indexes(tmp_path: Path) -> None:
    rows, since = unit(3), datetime(2026, 1, 1, tzinfo=UTC)
    async with opened(tmp_path) as index:
        await index.upsert(MODEL, points(rows[:2]))
    folder = tmp_path / "vectors" / collection_name(MODEL) / "shard"
    with closing(edge.EdgeShard.load(str(folder))) as shard:
        for key in ("created", "metadata"):
            shard.update(edge.UpdateOperation.delete_field_index(key))
        assert shard.info().payload_schema.keys() == {"collection", "tags"}
    async with opened(tmp_path) as index:
        new = Point(UUID(int=3), rows[2], "default", (), since, {"album": 7})
        await index.upsert(MODEL, [new])
        where = SearchFilter(created_from=since, metadata={"album": 7})
        assert [hit.id for hit in await index.query(MODEL, rows[0], 5, where)] == [new.id]
        assert await index.count(MODEL) == 3
    with closing(edge.EdgeShard.load(str(folder))) as shard:
        assert shard.info().payload_schema.keys() == {"collection", "tags", "created", "metadata"}


async def test_an_exact_query_compares_the_full_vectors_of_an_optimized_shard(tmp_path: Path) -> None:
    """All but alike, so that int8 cannot tell them apart."""
    rows = unit(1)[0] + 1e-2 * unit(5_000)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    async with opened(tmp_path) as index:
        await index.upsert(MODEL, points(rows))
    async with opened(tmp_path) as index:  # which optimizes it
        for asked in rows[:5]:
            best = (np.argsort(-(rows @ asked))[:10] + 1).tolist()
            exact = [hit.id.int for hit in await index.query(MODEL, asked, 10, ANY, exact=True)]
            scores = rows.astype(np.float64) @ asked
            assert scores[np.array(exact) - 1] == pytest.approx(scores[np.array(best) - 1], abs=1e-6)
            roughly = [hit.id.int for hit in await index.query(MODEL, asked, 10, ANY)]
            assert set(roughly) != set(exact)


async def test_recall_after_optimizing_at_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows, asked = unit(5_000), unit(50, seed=1)
    async with opened(tmp_path) as index:
        await index.upsert(MODEL, points(rows))
    with caplog.at_level(logging.INFO, "imgsim.vectors"):
        async with opened(tmp_path) as index:
            assert f"Optimized 5000 points of {MODEL} in" in caplog.text
            found = 0
            for vector in asked:
                hits = await index.query(MODEL, vector, 10, ANY)
                best = set((np.argsort(-(rows @ vector))[:10] + 1).tolist())
                found += len(best & {hit.id.int for hit in hits})
                assert [hit.score for hit in hits] == pytest.approx(
                    [rows[h.id.int - 1] @ vector for h in hits], abs=1e-5
                )
            assert found / 500 >= 0.99
            await index.upsert(
                MODEL, [Point(UUID(int=7), asked[0], "default")]
            )  # moves it out of the optimized segment
            assert (await index.query(MODEL, asked[0], 1, ANY))[0].id == UUID(int=7)
            assert await index.count(MODEL) == 5_000
    caplog.clear()
    async with opened(tmp_path):
        assert "Optimized" not in caplog.text


async def test_a_full_disk_refuses_writes_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit(200)
    async with opened(tmp_path) as index:
        await index.upsert(MODEL, points(rows[:100]))
        with monkeypatch.context() as full:
            full.setattr(edge_collection, "RESERVE_BYTES", 2 * shutil.disk_usage(tmp_path).total)
            for write in (
                index.upsert(MODEL, points(rows)),
                index.set_payload(MODEL, UUID(int=1), ["b"], {}),
                index.delete([UUID(int=1)]),
                index.open_collection("another@1", 64),
            ):
                with pytest.raises(Unavailable, match="disk is full"):
                    await write
            assert (await index.query(MODEL, rows[0], 1, SearchFilter(None, ("a",))))[0].id == UUID(int=1)
            assert await index.count(MODEL) == 100
        await index.upsert(MODEL, points(rows))
        await index.open_collection("another@1", 64)
        assert await index.count(MODEL) == 200


@pytest.mark.parametrize("failing", ["disk", "engine"])
async def test_what_cannot_be_optimized_at_start_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failing: str
) -> None:
    def fail(_: Collection) -> None:
        raise RuntimeError("no optimizing")

    rows = unit(5_000)
    async with opened(tmp_path) as index:
        await index.upsert(MODEL, points(rows))
    if failing == "disk":
        monkeypatch.setattr(edge_collection, "RESERVE_BYTES", 2 * shutil.disk_usage(tmp_path).total)
    else:
        monkeypatch.setattr(Collection, "optimize", fail)
    async with opened(tmp_path) as index:
        assert f"{MODEL} is not optimized, and searched more slowly: " in caplog.text
        assert (await index.query(MODEL, rows[0], 1, ANY))[0].id == UUID(int=1)


async def test_without_room_to_load_it_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as index:
        await index.upsert(MODEL, points(unit(3)))
    with monkeypatch.context() as full:
        full.setattr(edge_collection, "LOAD_BYTES", 2 * shutil.disk_usage(tmp_path).total)
        with pytest.raises(Unavailable, match="disk is full"):
            async with opened(tmp_path):
                pass
    async with opened(tmp_path) as index:
        assert await index.count(MODEL) == 3


async def test_the_event_loop_goes_on_meanwhile(tmp_path: Path) -> None:
    rows = unit(600, 1280)
    async with opened(tmp_path, 1280) as index:
        assert await longest_stop(index.upsert(MODEL, points(rows))) < 0.15  # 10 ms when the machine is quiet
        assert await longest_stop(index.query(MODEL, rows[0], 10, ANY)) < 0.05
        assert await longest_stop(index.fetch(MODEL, [UUID(int=n) for n in range(1, 601)])) < 0.1


async def longest_stop(work: Awaitable[object]) -> float:
    """Seconds that the event loop stood still at a time while `work` ran."""
    task, longest, last = asyncio.ensure_future(work), 0.0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    await task
    return longest


async def test_a_query_does_not_wait_for_all_of_a_large_upsert(tmp_path: Path) -> None:
    rows = unit(5_000, 256)
    async with opened(tmp_path, 256) as index:
        await index.upsert(MODEL, points(rows[:1]))
        large = asyncio.create_task(index.upsert(MODEL, points(rows)))
        await asyncio.sleep(0)
        assert (await index.query(MODEL, rows[0], 1, ANY))[0].id == UUID(int=1)
        assert not large.done()
        await large


async def test_what_the_engine_cannot_take_is_an_invalid_request(tmp_path: Path) -> None:
    vector, tag = unit(1)[0], "\ud800"  # half a character
    async with opened(tmp_path) as index:
        for call in (
            index.upsert(MODEL, [Point(UUID(int=1), vector, "default", (tag,))]),
            index.query(MODEL, vector, 1, SearchFilter(None, (tag,))),
            index.set_payload(MODEL, UUID(int=1), [tag], {}),
        ):
            with pytest.raises(InvalidRequest):
                await call


async def test_a_failing_engine_is_unavailable_with_its_words_and_gives_up_the_lock(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    config = tmp_path / "vectors" / collection_name(MODEL) / "shard" / "edge_config.json"
    whole = config.read_bytes()
    config.write_bytes(whole[:-9])
    with pytest.raises(Unavailable, match=r"vectors failed: .*edge_config") as caught:
        async with opened(tmp_path):
            pass
    assert caught.value.__cause__ is not None
    config.write_bytes(whole)
    async with opened(tmp_path) as index:
        await index.ping()


def test_neighbours_are_grouped_in_order_and_fail_alone() -> None:
    ran: list[str] = []

    def fail() -> None:
        raise ValueError("no")

    outcomes = edge_operations.run([lambda: ran.append("a"), fail, lambda: ran.append("b")])
    assert ran == ["a", "b"]
    assert [str(error) for _, error in outcomes] == ["None", "no", "None"]


def test_urls_name_a_folder() -> None:
    assert at("qdrant-edge:///abs/path").path == Path("/abs/path")  # type: ignore[attr-defined]
    assert at("qdrant-edge://rel/path").path == Path("rel/path")  # type: ignore[attr-defined]
    with pytest.raises(SettingsError, match="qdrant-edge:///folder"):
        at("qdrant-edge://")


def test_the_engine_is_imported_when_it_is_chosen() -> None:
    drivers = "{'qdrant_edge', 'qdrant_client', 'asyncpg'}"
    check = f"import sys, imgsim.adapters.vectors; assert not {drivers} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], check=True)
