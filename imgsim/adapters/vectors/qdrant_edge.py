"""Vectors in files of this process, by Qdrant Edge 0.9."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import numpy as np
import qdrant_edge as edge

from imgsim.adapters.batcher import Batcher
from imgsim.adapters.vectors import checked_vector, chunks, no_collection, ranked
from imgsim.adapters.vectors.edge_shards import CHUNK, Collection, EdgeShards, Operation, Outcome, Search, Upsert, run
from imgsim.core.errors import ImgsimError, InvalidRequest, Unavailable, VectorRefused
from imgsim.core.models import Hit, Point, SearchFilter, Vector

log = logging.getLogger("imgsim.vectors")

BATCH = 16
"""Operations that wait for each other's end: answers are handed out by the batch."""

WAITING = 10_000
"""Operations that may wait before more are ``Overloaded``."""

PAGE = 1000
"""Points that one engine call reads ids of, or removes."""

FLUSH_SECONDS = 5.0
"""How long a written point may stay unsynced, that is, how much a power cut may take back."""

SEARCH = edge.SearchParams(quantization=edge.QuantizationSearchParams(rescore=True, oversampling=2.0))
"""The best 2 x limit by int8, then those by their float vectors: exact scores, recall@10 1.0 where 1 x gave .985."""


class QdrantEdgeVectorIndex:
    """One Qdrant Edge shard for each model, in files below `path`, owned by this process alone.

    ::

        lock                           held while open: a second opener gets ``DataDirectoryInUse``
        live                           the name of the live model
        imgsim-MODEL/collection.json   model and dimensions; written last, without it the folder is half made
        imgsim-MODEL/shard/            the engine's files

    Written points are in the engine's log when a method returns, and so survive the death of the process;
    they are synced to the disk within ``FLUSH_SECONDS``.

    Search is exact in float32 over points that are not optimized, and a flat scan of int8 vectors with
    rescoring over those that are: at 100,000 points of 1280 dimensions on 2 cores that is 22 and 5 ms. HNSW
    answers in 0.6 ms, but is built for 33 s instead of 4, at a start that serves nobody meanwhile, and
    promises no recall. Collections are Cosine rather than Dot: for vectors of unit length the engine stores
    the same floats and gives the same scores, and a vector that is a little off still scores as a cosine.

    A model without a collection is ``NotSearchable`` in every method that takes one. What the engine says no
    to otherwise is ``Unavailable``, with its words.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shards = EdgeShards(path)
        self._batcher: Batcher[Operation, Outcome] | None = None
        self._flusher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        # One thread: a shard takes one call at a time, and each holds the GIL; more threads would only queue.
        self._batcher = Batcher(run, threads=1, max_batch=BATCH, max_waiting=WAITING, name="vectors")
        try:
            await self._call(self._shards.open)
        except BaseException:
            await self._stop()
            raise
        self._flusher = asyncio.create_task(self._flush_often(), name="vectors-flush")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._flusher is not None:
            self._flusher.cancel()
            await asyncio.wait([self._flusher])
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
            await self._submit(Upsert(collection, [_edge_point(point, vector) for point, vector in chunk]))

    async def query(
        self, model: str, vector: Vector, limit: int, where: SearchFilter, min_score: float | None = None
    ) -> Sequence[Hit]:
        collection = self._collection(model)
        asked = checked_vector(vector, collection.dimensions, model)
        with _refusing("query"):
            request = edge.QueryRequest(
                limit=limit,
                query=edge.Query.Nearest(asked.tolist()),
                filter=_filter(where, collection.names),
                params=SEARCH,
            )
        found = await self._submit(Search(collection, request))
        return ranked([Hit(point.id, point.score) for point in found], min_score)

    async def fetch(self, model: str, image_ids: Sequence[UUID]) -> Mapping[UUID, Vector]:
        shard = self._collection(model).shard

        def read(ids: list[Any]) -> dict[UUID, Vector]:
            records: list[Any] = shard.retrieve(ids, with_payload=False, with_vector=True)
            return {record.id: np.array(record.vector, dtype=np.float32) for record in records}

        found: dict[UUID, Vector] = {}
        for chunk in chunks(image_ids, CHUNK):
            found.update(await self._call(partial(read, list(chunk))))
        return found

    async def set_tags(self, model: str, image_id: UUID, tags: Sequence[str]) -> None:
        by_id = edge.Filter(must=[edge.HasIdCondition({image_id})])  # by id alone, a missing point is an error
        with _refusing("tag"):
            update = edge.UpdateOperation.set_payload_by_filter(by_id, {"tags": list(tags)})
        await self._call(partial(self._collection(model).update, update, 1))

    async def delete(self, image_ids: Sequence[UUID]) -> None:
        for collection in list(self._shards.collections.values()):
            for chunk in chunks(image_ids, PAGE):
                remove = edge.UpdateOperation.delete_points(list(chunk))
                await self._call(partial(collection.update, remove, len(chunk)))

    async def count(self, model: str) -> int:
        shard = self._collection(model).shard
        return int(await self._call(lambda: shard.count(edge.CountRequest(exact=True))))

    async def ids(self, model: str) -> AsyncIterator[UUID]:
        shard = self._collection(model).shard
        offset: UUID | None = None
        while True:
            page = edge.ScrollRequest(offset=offset, limit=PAGE, with_payload=False, with_vector=False)
            records, offset = await self._call(partial(shard.scroll, page))
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

    async def _submit(self, operation: Operation) -> Any:
        if self._batcher is None:
            raise Unavailable("The vector index is closed.")
        ((result, error),) = await self._batcher.submit([operation])
        if error is None:
            return result
        if isinstance(error, ImgsimError):
            raise error
        raise Unavailable(f"The vector index in {self.path} failed: {error}") from error

    async def _flush_often(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            for collection in list(self._shards.collections.values()):
                if collection.unsynced:
                    try:
                        await self._call(collection.flush)
                    except Unavailable as error:
                        log.error("%s", error)  # the points are in the log; the next flush tries again

    async def _stop(self) -> None:
        batcher = self._batcher
        if batcher is None:
            return
        try:
            await self._call(self._shards.close)
        finally:
            self._batcher = None
            await batcher.close()


def _edge_point(point: Point, vector: Vector) -> edge.Point:
    payload = {"collection": point.collection, "tags": list(point.tags)}
    with _refusing("point"):
        return edge.Point(point.id, vector.tolist(), payload)  # the engine reads a list twice as fast


def _filter(where: SearchFilter, names: set[str]) -> edge.Filter | None:
    wanted = []
    if where.collection is not None and names != {
        where.collection
    }:  # a filter that all pass costs a fifth of the query
        wanted.append(("collection", where.collection))
    wanted += [("tags", tag) for tag in where.tags]
    conditions: list[Any] = [edge.FieldCondition(key=key, match=edge.MatchValue(value)) for key, value in wanted]
    return edge.Filter(must=conditions) if conditions else None


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """The engine answers values that it cannot convert with an error of Python's own."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"The vector index cannot take this {what}: a text is no valid Unicode or a number too large."
        ) from error
