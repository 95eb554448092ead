"""The shards of Qdrant Edge in a folder: the synchronous half of the index, all of it run in the engine's thread."""

import logging
import time
from contextlib import ExitStack
from pathlib import Path

import portalocker

from imgsim.adapters.vectors import collection_name
from imgsim.adapters.vectors.edge_collection import DESCRIPTION, Collection
from imgsim.adapters.vectors.edge_files import write_durably
from imgsim.core.errors import DataDirectoryInUse

log = logging.getLogger("imgsim.vectors")

OPTIMIZE_AT_ONCE = 25_000_000
"""Values (points x dimensions) of a shard up to which opening optimizes it itself, in 1 s."""


class EdgeShards:
    """Every collection in `path`. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.collections: dict[str, Collection] = {}
        self.live: str | None = None
        self._opened = ExitStack()  # the lock and the collections

    def open(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        lock = portalocker.Lock(self.path / "lock", timeout=0, fail_when_locked=True)
        try:
            self._opened.enter_context(lock)
        except portalocker.LockException as error:
            raise DataDirectoryInUse(
                f"The vector index in {self.path} is open already, in this process or another."
            ) from error
        for file in sorted(self.path.glob(f"*/{DESCRIPTION}")):
            collection = Collection.load(file.parent)
            self._keep(collection)
            collection.remove_leftovers()
            _optimize_if_small(collection)
        live = self.path / "live"
        self.live = live.read_text(encoding="utf-8") if live.exists() else None

    def make(self, model: str, dimensions: int) -> None:
        """The collection of `model`, if it is missing. Another number of dimensions leaves it as it is."""
        if model not in self.collections:
            self._keep(Collection.create(model, dimensions, self.path / collection_name(model)))

    def set_live(self, model: str) -> None:
        write_durably(self.path / "live", model)
        self.live = model

    def close(self) -> None:
        """Sync and close every shard, then give up the lock."""
        self.collections.clear()
        self._opened.close()

    def _keep(self, collection: Collection) -> None:
        self._opened.callback(collection.close)
        self.collections[collection.model] = collection


def _optimize_if_small(collection: Collection) -> None:
    """Quantize what was written since the last time. Holds the GIL throughout: only before anyone is served."""
    points = collection.unoptimized
    values = collection.shard.info().points_count * collection.dimensions
    if values > OPTIMIZE_AT_ONCE or not collection.wants_optimizing():
        return
    start = time.perf_counter()
    try:
        collection.check_space_to_optimize()
        collection.optimize()
    except Exception as error:
        log.warning("%s is not optimized, and searched more slowly: %s", collection.model, error)
        return
    log.info("Optimized %d points of %s in %.1f s.", points, collection.model, time.perf_counter() - start)
