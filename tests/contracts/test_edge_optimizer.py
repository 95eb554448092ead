"""Qdrant Edge is optimized by a child process while it is in use: nothing is lost, whoever dies when."""

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from threading import Event
from uuid import UUID

import numpy as np
import psutil
import pytest
import qdrant_edge as edge

from imgsim.adapters.vectors import collection_name, edge_collection, edge_optimizer, edge_shards, qdrant_edge
from imgsim.adapters.vectors.edge_collection import Collection
from imgsim.adapters.vectors.edge_files import copy_tree, tree_bytes
from imgsim.adapters.vectors.qdrant_edge import QdrantEdgeVectorIndex
from imgsim.core.models import Point, SearchFilter
from imgsim.core.models import Vectors as Rows

MODEL = "efficientnet-lite0@1"
D = 64
ANY = SearchFilter()

DYING_WRITER = """
import asyncio, os, signal, sys
from pathlib import Path
from uuid import UUID
import numpy as np
from imgsim.adapters.vectors import edge_collection, edge_optimizer
from imgsim.adapters.vectors.qdrant_edge import QdrantEdgeVectorIndex
from imgsim.core.models import Point

edge_collection.OPTIMIZE_POINTS = 300
edge_optimizer.WATCH_SECONDS = 0.01
folder, when, place, name = Path(sys.argv[1]), *sys.argv[2:]
owner = {"collection": edge_collection.Collection, "files": edge_collection, "optimizer": edge_optimizer}[place]
doing = getattr(owner, name)

def die(*arguments, **options):
    if when == "after":
        doing(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with QdrantEdgeVectorIndex(folder) as index:
        await index.open_collection("efficientnet-lite0@1", 64)
        setattr(owner, name, die)
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


@pytest.fixture(autouse=True)
def _watchful(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(edge_optimizer, "WATCH_SECONDS", 0.01)
    caplog.set_level(logging.INFO, "imgsim.vectors")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have 500 points optimized, and by the child in any case."""
    monkeypatch.setattr(edge_collection, "OPTIMIZE_POINTS", 500)
    monkeypatch.setattr(edge_shards, "OPTIMIZE_AT_ONCE", 0)


def unit(n: int, seed: int = 0) -> Rows:
    rows = np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def filled(folder: Path, points: list[Point]) -> None:
    async with QdrantEdgeVectorIndex(folder) as index:
        await index.open_collection(MODEL, D)
        await index.upsert(MODEL, points)


def children() -> list[psutil.Process]:
    """Those that optimize: servers of other tests, and a browser's driver, are children of this process, too."""
    alive = [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]
    return [each for each in alive if any("edge_optimize" in word for word in each.cmdline())]


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / collection_name(MODEL)).glob("shard*"))


async def check(index: QdrantEdgeVectorIndex, model: dict[UUID, Point]) -> None:
    """`index` holds what `model` does: ids, vectors, tags, collections."""
    assert {each async for each in index.ids(MODEL)} == model.keys()
    assert await index.count(MODEL) == len(model)
    vectors = await index.fetch(MODEL, list(model))
    for each, point in model.items():
        np.testing.assert_allclose(vectors[each], point.vector, atol=1e-6)
    for where in (ANY, *(SearchFilter(each) for each in "xy"), *(SearchFilter(None, (each,)) for each in "abc")):
        found = {hit.id for hit in await index.query(MODEL, unit(1)[0], 100_000, where)}
        assert found == {
            each
            for each, point in model.items()
            if where.collection in (None, point.collection) and set(where.tags) <= set(point.tags)
        }


async def test_all_goes_on_while_a_child_optimizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = unit(3_000)
    model = {UUID(int=n): Point(UUID(int=n), row, "x", ("a",)) for n, row in enumerate(rows, 1)}
    await filled(tmp_path, list(model.values()))
    monkeypatch.setattr(edge_collection, "OPTIMIZE_POINTS", 500)
    monkeypatch.setattr(edge_shards, "OPTIMIZE_AT_ONCE", 0)
    done: list[int] = []

    async with QdrantEdgeVectorIndex(tmp_path) as index:

        async def use(user: int) -> None:
            """Change the points of this user at random, and search, before, while and after the child works."""
            random, vectors = Random(user), iter(unit(100_000, seed=user + 1))
            while done.count(user) < 400 and "Optimized" not in caplog.text:
                n = UUID(int=4 * random.randint(0, 900) + user)
                action = random.choice(["upsert", "upsert", "delete", "set_payload", "query"])
                tags = tuple(random.sample("abc", random.randint(0, 2)))
                if action == "upsert":
                    model[n] = Point(n, next(vectors), random.choice("xy"), tags)
                    await index.upsert(MODEL, [model[n]])
                elif action == "delete":
                    model.pop(n, None)
                    await index.delete([n])
                elif action == "set_payload":
                    if n in model:
                        model[n] = replace(model[n], tags=tags)
                    await index.set_payload(MODEL, n, tags, {})
                elif n in model:
                    assert (await index.query(MODEL, model[n].vector, 1, ANY))[0].id == n
                if index._shards.collections[MODEL].touched is not None:
                    done.append(user)

        await asyncio.gather(*[use(user) for user in range(4)])
        assert len(done) >= 400
        await check(index, model)
        await until(lambda: "Optimized" in caplog.text)
        await check(index, model)
        collection = index._shards.collections[MODEL]
        # On a fast machine there was so much to replay that it is optimized once more.
        await until(lambda: not collection.wants_optimizing() and shards(tmp_path) == [collection.shard_name])
        assert collection.shard_name != "shard"
        assert collection.unoptimized < 500 + len(done)
    async with QdrantEdgeVectorIndex(tmp_path) as index:
        await check(index, model)


async def test_it_is_optimized_again_when_it_has_grown(tmp_path: Path, few: None) -> None:
    rows = unit(2_600)
    points = [Point(UUID(int=n), row, "x") for n, row in enumerate(rows)]
    async with QdrantEdgeVectorIndex(tmp_path) as index:
        await index.open_collection(MODEL, D)
        collection = index._shards.collections[MODEL]
        for part in (points[:2_000], points[2_000:]):
            took_over = partial(lambda before: collection.shard_name != before, collection.shard_name)
            await index.upsert(MODEL, part)
            await until(took_over)
            await until(lambda: not collection.wants_optimizing())
        for n in range(0, 2_600, 100):
            hits = await index.query(MODEL, rows[n], 10, ANY)
            assert [hit.id.int for hit in hits] == np.argsort(-(rows @ rows[n]))[:10].tolist()


@pytest.mark.parametrize("change", ["replace", "delete"])
@pytest.mark.parametrize("reopened", [False, True], ids=["open", "reopened"])
async def test_it_is_optimized_again_when_points_were_replaced_or_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, reopened: bool
) -> None:
    points = [Point(UUID(int=n), row, "x", ("a",)) for n, row in enumerate(unit(2_000))]
    await filled(tmp_path, points)
    monkeypatch.setattr(edge_collection, "OPTIMIZE_POINTS", 500)
    async with QdrantEdgeVectorIndex(tmp_path) as index:
        assert index._shards.collections[MODEL].unoptimized == 0
    monkeypatch.setattr(edge_shards, "OPTIMIZE_AT_ONCE", 0)
    if reopened:
        monkeypatch.setattr(edge_collection, "OPTIMIZE_POINTS", 5_000)
    async with QdrantEdgeVectorIndex(tmp_path) as index:
        if change == "replace":
            points[:600] = [replace(point, vector=row) for point, row in zip(points[:600], unit(600, 1), strict=True)]
            await index.upsert(MODEL, points[:600])
        else:
            await index.delete([point.id for point in points[:600]])
            del points[:600]
        if not reopened:
            await until(lambda: shards(tmp_path) == ["shard-1"])
    monkeypatch.setattr(edge_collection, "OPTIMIZE_POINTS", 500)
    async with QdrantEdgeVectorIndex(tmp_path) as index:
        await until(lambda: shards(tmp_path) == ["shard-1"])
        collection = index._shards.collections[MODEL]
        assert collection.shard.info().indexed_vectors_count == len(points)
        assert not collection.wants_optimizing()
        await check(index, {point.id: point for point in points})


@pytest.mark.parametrize(
    "moment",
    [
        ("before", "optimizer", "copy_tree"),
        ("after", "optimizer", "copy_tree"),
        ("before", "optimizer", "read_ahead"),
        ("after", "collection", "replay"),
        ("before", "files", "write_durably"),
        ("after", "files", "write_durably"),
        ("after", "collection", "switch"),
    ],
    ids=" ".join,
)
async def test_kill_9_at_any_moment_loses_nothing(tmp_path: Path, moment: tuple[str, str, str]) -> None:
    command = [sys.executable, "-c", DYING_WRITER, str(tmp_path), *moment]
    writer = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120)
    assert writer.returncode == -9, writer.stderr
    acknowledged = {int(line) for line in writer.stdout.splitlines(keepends=True) if line.endswith("\n")}
    assert len(acknowledged) >= 200
    async with QdrantEdgeVectorIndex(tmp_path) as index:
        assert len(shards(tmp_path)) == 1
        kept = {each.int async for each in index.ids(MODEL)}
        assert {n for n in acknowledged if n % 5} <= kept
        assert not {n for n in acknowledged if n % 5 == 0} & kept
        old = {hit.id.int for hit in await index.query(MODEL, unit(1)[0], 100_000, SearchFilter(None, ("old",)))}
        assert {n for n in acknowledged if n % 7 == 0 and n % 5} <= old
        new = {hit.id.int for hit in await index.query(MODEL, unit(1)[0], 100_000, SearchFilter(None, ("new",)))}
        assert new | old == kept
        await index.upsert(MODEL, [Point(UUID(int=10**6), unit(1)[0], "default")])


async def test_a_child_that_dies_changes_nothing(tmp_path: Path, few: None, caplog: pytest.LogCaptureFixture) -> None:
    model = {UUID(int=n): Point(UUID(int=n), row, "x", ("a",)) for n, row in enumerate(unit(1_000))}
    async with QdrantEdgeVectorIndex(tmp_path) as index:
        await index.open_collection(MODEL, D)
        await index.upsert(MODEL, list(model.values()))
        await until(lambda: bool(children()))
        children()[0].kill()
        await until(lambda: "searched more slowly: The process that does it ended with -9" in caplog.text)
        assert shards(tmp_path) == ["shard"]
        await index.delete([UUID(int=1)])
        model.pop(UUID(int=1))
        await check(index, model)
    async with QdrantEdgeVectorIndex(tmp_path) as index:
        await check(index, model)


async def test_without_room_for_a_copy_nothing_is_tried(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(edge_collection, "DISK_FACTOR", 1e9)
    async with QdrantEdgeVectorIndex(tmp_path) as index:
        await index.open_collection(MODEL, D)
        await index.upsert(MODEL, [Point(UUID(int=n), row, "x") for n, row in enumerate(unit(600))])
        await until(lambda: "The disk is full" in caplog.text)
        assert shards(tmp_path) == ["shard"]
        assert await index.count(MODEL) == 600


async def test_an_unforeseen_error_does_not_end_the_optimizer(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(edge_optimizer, "RETRY_SECONDS", 0.01)
    async with QdrantEdgeVectorIndex(tmp_path) as index:
        await index.open_collection(MODEL, D)
        with monkeypatch.context() as patched:
            patched.setattr(edge_optimizer, "copy_tree", fail)
            await index.upsert(MODEL, [Point(UUID(int=n), row, "x") for n, row in enumerate(unit(600))])
            await until(lambda: "RuntimeError: unforeseen" in caplog.text)
        await until(lambda: shards(tmp_path) == ["shard-1"])
        assert await index.count(MODEL) == 600


async def test_an_unforeseen_error_does_not_end_the_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Path) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(qdrant_edge, "SYNC_SECONDS", 0.01)
    async with QdrantEdgeVectorIndex(tmp_path) as index:
        await index.open_collection(MODEL, D)
        with monkeypatch.context() as patched:
            patched.setattr(edge_collection, "sync", fail)
            await index.upsert(MODEL, [Point(UUID(int=1), unit(1)[0], "x")])
            await until(lambda: "RuntimeError: unforeseen" in caplog.text)
        await until(lambda: not index._shards.collections[MODEL].unsynced)


def test_a_copy_has_the_holes_of_its_original(tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    (original / "folder").mkdir(parents=True)
    contents = {"sparse": [(10_000_000, b"middle"), (20_000_000, b"")], "odd": [(70_001, b"end")], "empty": [(0, b"")]}
    for name, parts in contents.items():
        with (original / "folder" / name).open("wb") as file:
            for offset, data in parts:
                file.seek(offset)
                file.write(data)
            file.truncate()
    copy_tree(original, copy, Event())
    for name in contents:
        assert (copy / "folder" / name).read_bytes() == (original / "folder" / name).read_bytes()
    os.sync()  # some systems take the blocks of a file only then
    assert tree_bytes(copy) < 1_000_000


async def test_closing_ends_the_child_and_removes_the_copy(tmp_path: Path, few: None) -> None:
    async with QdrantEdgeVectorIndex(tmp_path) as index:
        await index.open_collection(MODEL, D)
        await index.upsert(MODEL, [Point(UUID(int=n), row, "x") for n, row in enumerate(unit(600))])
        await until(lambda: bool(children()))
        assert shards(tmp_path) == ["shard", "shard-1"]
    assert children() == []
    assert shards(tmp_path) == ["shard"]


def test_the_log_alone_restores_what_the_other_files_lack(tmp_path: Path) -> None:
    """After a power cut, as ``sync`` brings no more than the log to the disk."""

    def point(n: int) -> edge.UpdateOperation:
        payload = {"collection": "x", "tags": []}
        return edge.UpdateOperation.upsert_points([edge.Point(UUID(int=n), rows[n].tolist(), payload)])

    rows = unit(400)
    collection = Collection.create(MODEL, D, tmp_path / "whole")
    for n in range(200):
        collection.update(point(n), [UUID(int=n)])
    collection.flush()
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for n in range(200, 400):
        collection.update(point(n), [UUID(int=n)])
    assert collection.unsynced
    collection.sync()
    assert not collection.unsynced
    shutil.rmtree(tmp_path / "cut" / "shard" / "wal")
    shutil.copytree(tmp_path / "whole" / "shard" / "wal", tmp_path / "cut" / "shard" / "wal")
    restored = Collection.load(tmp_path / "cut")
    assert restored.shard.count(edge.CountRequest(exact=True)) == 400
    for each in (collection, restored):
        each.close()
