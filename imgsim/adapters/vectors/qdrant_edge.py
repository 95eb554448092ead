"""Vectors in files of this process, by Qdrant Edge 0.9."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import numpy as np
import qdrant_edge as edge

from imgsim.adapters.batcher import Batcher
from imgsim.adapters.coalescer import chunks
from imgsim.adapters.vectors import checked_vector, labels_of, no_collection, ranked, stacked
from imgsim.adapters.vectors.edge_collection import Collection
from imgsim.adapters.vectors.edge_operations import CHUNK, Operation, Outcome, Search, Upsert, run
from imgsim.adapters.vectors.edge_optimizer import EdgeOptimizer
from imgsim.adapters.vectors.edge_shards import EdgeShards
from imgsim.adapters.vectors.edge_values import edge_filter, edge_point, refusing
from imgsim.core.errors import ImgsimError, Unavailable, VectorRefused
from imgsim.core.models import Hit, Point, SearchFilter, Vector, Vectors

log = logging.getLogger("imgsim.vectors")

BATCH = 16
"""Operations that wait for each other's end: answers are handed out by the batch."""

WAITING = 10_000
"""Operations that may wait before more are ``Overloaded``."""

PAGE = 1000
"""Points that one engine call reads ids of, or removes."""

SYNC_SECONDS = 5.0
"""How long a written point may stay unsynced, that is, how much a power cut may take back."""

SEARCH = edge.SearchParams(quantization=edge.QuantizationSearchParams(rescore=True, oversampling=4.0))
"""The best 4 x limit by int8, then those by their float vectors, with exact scores.

recall@10 of clustered vectors, 1,000 to 100,000 points with 1280 dimensions and 500,000 with 512: .85 to .87 by 1 x,
.992 to .999 by 2 x, 1.000 by 3 x and 4 x; recall@100 at 500,000 is .9998 by 3 x, 1.000 by 4 x. No time between them."""

EXACT = edge.SearchParams(exact=True, quantization=edge.QuantizationSearchParams(ignore=True))
"""Every float vector, as if nothing were optimized."""


class QdrantEdgeVectorIndex:
    """One Qdrant Edge shard for each model, in files below `path`, owned by this process alone.

    ::

        lock                           held while open: a second opener gets ``DataDirectoryInUse``
        live                           the name of the live model
        imgsim-MODEL/collection.json   model, dimensions, name of the shard; written last, without it the folder
                                       is half made
        imgsim-MODEL/changed           how many changes there were since the shard was optimized
        imgsim-MODEL/shard/            the engine's files; shard-1 and so on after it was optimized

    Written points are in the engine's log when a method returns, and so survive the death of the process;
    they are synced to the disk within ``SYNC_SECONDS``. Where the disk is nearly full, writing is
    ``Unavailable``, and reading goes on.

    Search is exact in float32 over points that are not optimized, and a flat scan of int8 vectors with
    rescoring over those that are: at 100,000 points of 1280 dimensions on 2 cores that is 22 and 5 ms. When
    there is enough to optimize, a child process does it (``EdgeOptimizer``). HNSW answers in 0.6 ms, but is
    built for 33 s instead of 4, and promises no recall. Collections are Cosine rather than Dot: for vectors of
    unit length the engine stores the same floats and gives the same scores, and a vector that is a little off
    still scores as a cosine.

    A model without a collection is ``NotSearchable`` in every method that takes one. What the engine says no
    to otherwise is ``Unavailable``, with its words.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shards = EdgeShards(path)
        self._batcher: Batcher[Operation, Outcome] | None = None
        self._optimizer = EdgeOptimizer(self._shards.collections, self._call)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        # One thread: a shard takes one call at a time, and each holds the GIL; more threads would only queue.
        self._batcher = Batcher(run, threads=1, max_batch=BATCH, max_waiting=WAITING, name="vectors")
        try:
            await self._call(self._shards.open)
        except BaseException:
            await self._stop()
            raise
        self._tasks = [
            asyncio.create_task(self._sync_often(), name="vectors-sync"),
            asyncio.create_task(self._optimizer.run(), name="vectors-optimize"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._stop()

    async def ping(self) -> None:
        await self._call(lambda: None)

    async def open_collection(self, model: str, dimensions: int) -> None:
        await self._call(lambda: self._shards.make(model, dimensions))
        found = self._shards.collections[model].dimensions
        if found != dimensions:
            raise VectorRefused(f"The collection of {model} has {found} dimensions, not {dimensions}.")

    async def models(self) -> Sequence[str]:
        return sorted(self._shards.collections)

    async def set_live(self, model: str) -> None:
        self._collection(model)
        await self._call(partial(self._shards.set_live, model))

    async def live(self) -> str | None:
        return self._shards.live

    async def upsert(self, model: str, points: Sequence[Point]) -> None:
        collection = self._collection(model)
        collection.names.update(point.collection for point in points)
        checked = [(point, checked_vector(point.vector, collection.dimensions, model)) for point in points]
        for chunk in chunks(checked, CHUNK):  # one after the other: queries come in between
            await self._write(Upsert(collection, [edge_point(point, vector) for point, vector in chunk]))

    async def query(
        self,
        model: str,
        vector: Vector,
        limit: int,
        where: SearchFilter,
        min_score: float | None = None,
        exact: bool = False,
    ) -> Sequence[Hit]:
        collection = self._collection(model)
        asked = checked_vector(vector, collection.dimensions, model)
        with refusing("query"):
            request = edge.QueryRequest(
                limit=limit,
                query=edge.Query.Nearest(asked.tolist()),
                filter=edge_filter(where, collection.names),
                params=EXACT if exact else SEARCH,
            )
        found = await self._submit(Search(collection, request))
        return ranked([Hit(point.id, point.score) for point in found], min_score)

    async def fetch(self, model: str, image_ids: Sequence[UUID]) -> Mapping[UUID, Vector]:
        collection = self._collection(model)

        def read(ids: list[Any]) -> dict[UUID, Vector]:
            records: list[Any] = collection.shard.retrieve(ids, with_payload=False, with_vector=True)
            return {record.id: np.array(record.vector, dtype=np.float32) for record in records}

        found: dict[UUID, Vector] = {}
        for chunk in chunks(image_ids, CHUNK):
            found.update(await self._call(partial(read, list(chunk))))
        return found

    async def sample(self, model: str, collection: str | None, n: int) -> Vectors:
        found = self._collection(model)
        with refusing("collection"):
            request = edge.QueryRequest(
                limit=n, query=edge.Sample.Random, filter=edge_filter(SearchFilter(collection), found.names)
            )
        drawn = await self._submit(Search(found, request))
        vectors = await self.fetch(model, [point.id for point in drawn])  # in short calls: queries come in between
        return stacked(vectors.values(), found.dimensions)

    async def set_payload(self, model: str, image_id: UUID, tags: Sequence[str], metadata: Mapping[str, Any]) -> None:
        by_id = edge.Filter(must=[edge.HasIdCondition({image_id})])  # by id alone, a missing point is an error
        with refusing("payload"):
            update = edge.UpdateOperation.set_payload_by_filter(by_id, labels_of(tags, metadata))
        await self._write(partial(self._collection(model).update, update, [image_id]))

    async def delete(self, image_ids: Sequence[UUID]) -> None:
        for collection in list(self._shards.collections.values()):
            for chunk in chunks(image_ids, PAGE):
                remove = edge.UpdateOperation.delete_points(list(chunk))
                await self._write(partial(collection.update, remove, chunk))

    async def count(self, model: str) -> int:
        collection = self._collection(model)
        return int(await self._call(lambda: collection.shard.count(edge.CountRequest(exact=True))))

    async def ids(self, model: str) -> AsyncIterator[UUID]:
        collection = self._collection(model)
        offset: UUID | None = None

        def read(page: edge.ScrollRequest) -> Any:
            return collection.shard.scroll(page)

        while True:
            page = edge.ScrollRequest(offset=offset, limit=PAGE, with_payload=False, with_vector=False)
            records, offset = await self._call(partial(read, page))
            for record in records:
                yield record.id
            if offset is None:
                return

    def _collection(self, model: str) -> Collection:
        if self._batcher is None:
            raise Unavailable("The vector index is closed.")
        if model not in self._shards.collections:
            raise no_collection(model)
        return self._shards.collections[model]

    async def _call(self, function: Callable[[], Any]) -> Any:
        """Run `function` in the engine's thread, after all that was submitted before."""
        return await self._submit(function)

    async def _write(self, operation: Operation) -> None:
        await self._optimizer.writable()
        await self._submit(operation)

    async def _submit(self, operation: Operation) -> Any:
        if self._batcher is None:
            raise Unavailable("The vector index is closed.")
        ((result, error),) = await self._batcher.submit([operation])
        if error is None:
            return result
        if isinstance(error, ImgsimError):
            raise error
        raise Unavailable(f"The vector index in {self.path} failed: {error}") from error

    async def _sync_often(self) -> None:
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            for collection in list(self._shards.collections.values()):
                if collection.unsynced:
                    try:
                        await asyncio.to_thread(collection.sync)  # beside the engine's thread, and without the GIL
                    except OSError as error:
                        log.error("The vector index in %s cannot sync: %s", self.path, error)  # and tries again
                    except Exception:  # it must not end the task, whatever it is
                        log.exception("The vector index in %s cannot sync.", self.path)

    async def _stop(self) -> None:
        batcher = self._batcher
        if batcher is None:
            return
        try:
            await self._call(self._shards.close)
        finally:
            self._batcher = None
            await batcher.close()
