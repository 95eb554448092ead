"""The shards of Qdrant Edge in a folder: the synchronous half of the index, all of it run in the engine's thread.

The sizes and times here were measured with 1280 dimensions on 2 cores. Every engine call holds the GIL to its
end, so each is kept short: the event loop stands still for as long.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import portalocker
import qdrant_edge as edge

from imgsim.adapters.vectors import collection_name
from imgsim.core.errors import DataDirectoryInUse

log = logging.getLogger("imgsim.vectors")

CHUNK = 64
"""Points that one engine call writes, in 4 ms."""

SEARCHES = 4
"""Queries that one engine call answers: at 100,000 points 11 ms each instead of 24 (quantized: 3.8 instead of 5.4)."""

FLUSH_POINTS = 500
"""Written points after which the engine syncs its files (10 ms): after a kill, no more are replayed (0.1 ms each)."""

OPTIMIZE_POINTS = 5_000
"""Points without quantization from which opening optimizes (40 ms per 1,000): fewer are scanned in 1 ms anyway."""


@dataclass(slots=True)
class Collection:
    """The shard of one model."""

    dimensions: int
    shard: edge.EdgeShard
    unsynced: int = 0
    """Points written since the last flush."""
    names: set[str] = field(default_factory=set)
    """The images' collections that points were ever written for, at least one and a second where there are more."""

    def update(self, operation: edge.UpdateOperation, points: int) -> None:
        self.shard.update(operation)
        self.unsynced += points
        if self.unsynced >= FLUSH_POINTS:
            self.flush()

    def flush(self) -> None:
        self.shard.flush()
        self.unsynced = 0


@dataclass(frozen=True, slots=True)
class Upsert:
    """Points to add, in one engine call with those of its neighbours."""

    most: ClassVar[int] = CHUNK
    collection: Collection
    points: Sequence[edge.Point]

    @property
    def size(self) -> int:
        return len(self.points)


@dataclass(frozen=True, slots=True)
class Search:
    """A query, in one pass over the vectors with its neighbours."""

    most: ClassVar[int] = SEARCHES
    size: ClassVar[int] = 1
    collection: Collection
    request: edge.QueryRequest


Operation = Upsert | Search | Callable[[], Any]
Outcome = tuple[Any, BaseException | None]
"""What an operation returned, or what it raised."""


class EdgeShards:
    """Every collection in `path`. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.collections: dict[str, Collection] = {}
        self.live: str | None = None
        self._opened = ExitStack()  # the lock and the shards

    def open(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        lock = portalocker.Lock(self.path / "lock", timeout=0, fail_when_locked=True)
        try:
            self._opened.enter_context(lock)
        except portalocker.LockException as error:
            raise DataDirectoryInUse(
                f"The vector index in {self.path} is open already, in this process or another."
            ) from error
        for file in sorted(self.path.glob("*/collection.json")):
            made = json.loads(file.read_text(encoding="utf-8"))
            shard = edge.EdgeShard.load(str(file.parent / "shard"))
            self._keep(made["model"], made["dimensions"], shard)
            _optimize(made["model"], shard)
        live = self.path / "live"
        self.live = live.read_text(encoding="utf-8") if live.exists() else None

    def make(self, model: str, dimensions: int) -> None:
        """The collection of `model`, if it is missing. Another number of dimensions leaves it as it is."""
        if model in self.collections:
            return
        folder = self.path / collection_name(model)
        if folder.exists():
            shutil.rmtree(folder)  # half made: no point was ever written to it
        folder.mkdir()
        shard = edge.EdgeShard.create(str(folder / "shard"), _config(dimensions))
        for key in ("collection", "tags"):
            shard.update(edge.UpdateOperation.create_field_index(key, edge.PayloadSchemaType.Keyword))
        shard.flush()
        _sync_folder(self.path)
        _write_durably(folder / "collection.json", json.dumps({"model": model, "dimensions": dimensions}))
        self._keep(model, dimensions, shard)

    def set_live(self, model: str) -> None:
        _write_durably(self.path / "live", model)
        self.live = model

    def close(self) -> None:
        """Sync and close every shard, then give up the lock."""
        self.collections.clear()
        self._opened.close()

    def _keep(self, model: str, dimensions: int, shard: edge.EdgeShard) -> None:
        self._opened.callback(shard.close)
        self._opened.callback(shard.flush)
        found = shard.facet(edge.FacetRequest("collection", limit=2))
        self.collections[model] = Collection(dimensions, shard, names={str(hit.value) for hit in found.hits})


def run(operations: Sequence[Operation]) -> list[Outcome]:
    """Run `operations` in order, neighbours of a kind as one; each has its own outcome, and nothing is raised."""
    outcomes: list[Outcome] = []
    for group in _grouped(operations):
        try:
            outcomes += [(result, None) for result in _run_group(group)]
        except BaseException as error:  # a panic of the engine is no Exception, and must not end the thread
            outcomes += [(None, error)] if len(group) == 1 else [run([each])[0] for each in group]
    return outcomes


def _run_group(group: Sequence[Any]) -> Sequence[Any]:
    first: Operation = group[0]
    if isinstance(first, Upsert):
        points = [point for upsert in group for point in upsert.points]
        first.collection.update(edge.UpdateOperation.upsert_points(points), len(points))
        return [None] * len(group)
    if isinstance(first, Search):
        return first.collection.shard.query_batch(edge.QueryBatchRequest([search.request for search in group]))
    return [first()]


def _grouped(operations: Sequence[Operation]) -> Iterator[list[Operation]]:
    """Neighbours of one kind and collection, as far as one engine call may take them; all else alone."""
    group: list[Operation] = []
    for operation in operations:
        if group and not _joins(group, operation):
            yield group
            group = []
        group.append(operation)
    if group:
        yield group


def _joins(group: Sequence[Any], operation: Operation) -> bool:
    return (
        isinstance(operation, Upsert | Search)
        and type(operation) is type(group[0])
        and operation.collection is group[0].collection
        and sum(each.size for each in group) + operation.size <= operation.most
    )


def _config(dimensions: int) -> edge.EdgeConfig:
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(size=dimensions, distance=edge.Distance.Cosine),
        hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000),  # m=0: no graph
        quantization_config=edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8, memory=edge.Memory.Pinned),
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=1),  # KB; OPTIMIZE_POINTS decides
    )


def _optimize(model: str, shard: edge.EdgeShard) -> None:
    """Quantize what was written since the last start. Holds the GIL throughout: only before anyone is served."""
    info = shard.info()
    points = info.points_count - info.indexed_vectors_count
    if points < OPTIMIZE_POINTS:
        return
    log.info("Optimizing %d points of %s.", points, model)
    start = time.perf_counter()
    shard.optimize()
    log.info("Optimized %d points of %s in %.1f s.", points, model, time.perf_counter() - start)


def _write_durably(file: Path, text: str) -> None:
    """Replace `file` atomically; it is on the disk when this returns."""
    temporary = file.with_name(file.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(file)
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
