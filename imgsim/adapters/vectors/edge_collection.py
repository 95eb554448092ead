"""One model's shard of Qdrant Edge: what is written to it, and how another takes its place.

All methods but ``sync`` run in the engine's thread. Sizes and times were measured with 1280 dimensions on 2
cores. Every engine call holds the GIL to its end, so each is kept short: the event loop stands still for as long.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import qdrant_edge as edge

from imgsim.adapters.vectors.edge_files import check_space, read_ahead, sync, tree_bytes, write_durably
from imgsim.adapters.vectors.edge_values import PAYLOAD_INDEXES
from imgsim.core.errors import Unavailable

log = logging.getLogger("imgsim.vectors")

DESCRIPTION = "collection.json"

CHANGED = "changed"
"""The file with the number of changes since the shard was optimized, as of the last flush."""

FLUSH_POINTS = 5_000
"""Written points after which the engine's files are brought up to its log: after a kill, no more are replayed (0.1 ms
each). Each flush stops the event loop for 10 ms, and for as long as its many syncs wait where the disk is busy."""

OPTIMIZE_POINTS = 5_000
"""Changes up to which a shard is left as it is: so many points without quantization are scanned in 1 ms."""

OPTIMIZE_SHARE = 0.2
"""And the share of the quantized points up to which it is: so each point is copied some six times in all, ever, where
points are only added. The engine takes deleted points out of a segment of which they are a fifth."""

RESERVE_BYTES = 64 * 1024 * 1024
"""Free space that is left alone: the engine writes to holes of mapped files, and where there is no room for one of
their pages, the system ends the process (SIGBUS). One call takes a few MB."""

LOAD_BYTES = 32 * 1024 * 1024
"""Free space to load a shard, which writes what its log has and its files lack. Less than the reserve: what has served
on a full disk can be started again there."""

DISK_FACTOR = 3.0
"""Free space to optimize, in sizes of the shard: a copy of it and the optimized segments beside that take 2.3."""


class Collection:
    """The shard of `model` in `folder`, which ``DESCRIPTION`` names."""

    def __init__(self, model: str, dimensions: int, folder: Path, shard_name: str, shard: edge.EdgeShard) -> None:
        self.model = model
        self.dimensions = dimensions
        self.folder = folder
        self.shard_name = shard_name
        self.shard = shard
        self.successor: edge.EdgeShard | None = None
        """Loaded beside `shard`, to take its place when it has everything."""
        self.touched: set[UUID] | None = None
        """Ids of points that were written, tagged or deleted since the successor was copied; None without one."""
        self.unsynced = False
        """Whether anything was written since the last ``sync``."""
        found = shard.facet(edge.FacetRequest("collection", limit=2))
        self.names = {str(hit.value) for hit in found.hits}
        """The images' collections that points were ever written for, at least one and a second where there are more."""
        self._unflushed = 0
        self._changed = self._read_changed()
        self._changed_before_copy = 0

    @classmethod
    def create(cls, model: str, dimensions: int, folder: Path) -> Self:
        if folder.exists():
            shutil.rmtree(folder)  # half made: no point was ever written to it
        check_space(folder.parent, RESERVE_BYTES)
        folder.mkdir()
        shard = edge.EdgeShard.create(str(folder / "shard"), _config(dimensions))
        _index_payload(shard, folder)
        sync(folder.parent)
        made = cls(model, dimensions, folder, "shard", shard)
        made._describe("shard")
        return made

    @classmethod
    def load(cls, folder: Path) -> Self:
        made = _description(folder)
        model, dimensions, name = made["model"], made["dimensions"], made.get("shard", "shard")
        check_space(folder, LOAD_BYTES)
        read_ahead(folder / name)
        shard = edge.EdgeShard.load(str(folder / name), _config(dimensions))
        _index_payload(shard, folder)
        return cls(model, dimensions, folder, name, shard)

    @property
    def path(self) -> Path:
        return self.folder / self.shard_name

    def update(self, operation: edge.UpdateOperation, ids: Sequence[UUID]) -> None:
        """Apply `operation`, which changes no other points than `ids`. ``Unavailable`` where the disk is full."""
        check_space(self.folder, RESERVE_BYTES)
        if self.touched is not None:
            self.touched.update(ids)
        self.shard.update(operation)
        self.unsynced = True
        self._unflushed += len(ids)
        self._changed += len(ids)
        if self._unflushed >= FLUSH_POINTS:
            self.flush()

    def flush(self) -> None:
        self.shard.flush()
        self._unflushed = 0
        self._write_changed()

    def sync(self) -> None:
        """Bring the engine's log to the disk, from which it restores what its other files lack. In any thread."""
        self.unsynced = False
        try:
            for path in [*(self.path / "wal").glob("*"), self.path / "wal"]:
                with suppress(FileNotFoundError):  # flushed and removed meanwhile
                    sync(path)
        except Exception:
            self.unsynced = True
            raise

    def close(self) -> None:
        self.abandon()
        self.flush()
        self.shard.close()

    @property
    def unoptimized(self) -> int:
        """Points written, tagged or deleted since the shard was optimized, one that was twice counted twice.

        Each may be searched by its float vector, or lie in a quantized segment without being found there. The
        engine counts ``indexed_vectors_count`` with those, so that it alone shows nothing of a shard whose points
        are replaced. A kill takes back no more of the count than was not flushed.
        """
        info = self.shard.info()
        return max(self._changed, int(info.points_count - info.indexed_vectors_count))

    def wants_optimizing(self) -> bool:
        indexed = self.shard.info().indexed_vectors_count
        return self.unoptimized >= max(OPTIMIZE_POINTS, OPTIMIZE_SHARE * indexed)

    def check_space_to_optimize(self) -> None:
        """``Unavailable`` without room for it. In any thread."""
        check_space(self.folder, RESERVE_BYTES + DISK_FACTOR * tree_bytes(self.path))

    def optimize(self) -> None:
        """Optimize the shard as it lies. Holds the GIL throughout."""
        self.shard.optimize()
        self._changed = 0
        self._write_changed()

    def prepare_copy(self) -> Path:
        """Bring the shard's files into a state to copy, and note from now on what changes; the folder to copy to.

        Nothing may be written until the copy is made.
        """
        self.abandon()
        self.flush()
        self.touched = set()
        self._changed_before_copy = self._changed
        return next(path for n in count(1) if not (path := self.folder / f"shard-{n}").exists())

    def load_successor(self, path: Path) -> None:
        self.successor = edge.EdgeShard.load(str(path))

    def replay(self, most: int) -> int:
        """Bring at most `most` of the touched points to the successor; how many are left."""
        check_space(self.folder, RESERVE_BYTES)
        assert self.successor is not None
        assert self.touched is not None
        ids = [self.touched.pop() for _ in range(min(most, len(self.touched)))]
        records: list[Any] = self.shard.retrieve(list(ids), with_payload=True, with_vector=True)
        points = [edge.Point(record.id, record.vector, record.payload) for record in records]
        if points:
            self.successor.update(edge.UpdateOperation.upsert_points(points))
        gone = set(ids) - {point.id for point in points}
        if gone:
            self.successor.update(edge.UpdateOperation.delete_points(list(gone)))
        return len(self.touched)

    def switch(self, path: Path) -> None:
        """Go on with the successor, which lies in `path`, for good.

        Nothing may be written between the last ``replay`` and this.
        """
        assert self.successor is not None
        assert not self.touched
        self.successor.flush()
        try:
            self._describe(path.name)
        except OSError:
            if _description(self.folder).get("shard") != path.name:  # else only the last sync has failed
                raise
        old = self.shard
        self.shard, self.shard_name, self._unflushed = self.successor, path.name, 0
        self.successor = self.touched = None
        self._changed -= self._changed_before_copy
        self._write_changed()
        old.close()

    def abandon(self) -> None:
        """Forget the successor, if there is one."""
        successor, self.successor, self.touched = self.successor, None, None
        if successor is not None:
            successor.close()

    def remove_leftovers(self) -> None:
        """Remove shards that never took over, or are no longer needed."""
        for path in self.folder.glob("shard*"):
            if path != self.path:
                shutil.rmtree(path, ignore_errors=True)  # what stays is in nobody's way

    def _read_changed(self) -> int:
        """Without the file, which is not synced either: at least as many as the engine's counts differ by."""
        with suppress(FileNotFoundError, ValueError):
            return int((self.folder / CHANGED).read_text(encoding="utf-8"))
        info = self.shard.info()
        return abs(int(info.points_count - info.indexed_vectors_count))

    def _write_changed(self) -> None:
        try:
            (self.folder / CHANGED).write_text(str(self._changed), encoding="utf-8")
        except OSError as error:  # costs a search that is slower for a while
            log.warning("The changes of %s since it was optimized are not noted: %s", self.model, error)

    def _describe(self, shard_name: str) -> None:
        made = {"model": self.model, "dimensions": self.dimensions, "shard": shard_name}
        write_durably(self.folder / DESCRIPTION, json.dumps(made))


def _description(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    return found


def _index_payload(shard: edge.EdgeShard, folder: Path) -> None:
    """Make the indexes that are missing, as an earlier version had fewer. Without them filters are but slower."""
    there = shard.info().payload_schema
    missing = [key for key in PAYLOAD_INDEXES if key not in there]
    if not missing:
        return
    try:
        check_space(folder, RESERVE_BYTES)
    except Unavailable as error:
        log.warning("The index in %s filters more slowly: %s", folder, error)
        return
    for key in missing:
        shard.update(edge.UpdateOperation.create_field_index(key, PAYLOAD_INDEXES[key]))
    shard.flush()


def _config(dimensions: int) -> edge.EdgeConfig:
    """``Memory.Cached`` maps the quantized vectors: a shard is loaded in 40 ms, by ``Pinned`` in 120, as fast after."""
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(size=dimensions, distance=edge.Distance.Cosine),
        hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000),  # m=0: no graph
        quantization_config=edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8, memory=edge.Memory.Cached),
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=1),  # KB; wants_optimizing decides
    )
