"""Vectors behind a Qdrant client: a server's, or a local one in memory.

Only calls whose meaning is documented for the server and the same on the local client are used.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import numpy as np
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse
from qdrant_client.models import PointStruct

from imgsim.adapters.coalescer import Coalescer, chunks
from imgsim.adapters.vectors import (
    checked_vector,
    collection_name,
    labels_of,
    model_of,
    no_collection,
    payload_of,
    ranked,
    stacked,
)
from imgsim.adapters.vectors.qdrant_errors import translated
from imgsim.adapters.vectors.qdrant_options import ORDERING, PAYLOAD_INDEXES, ServerOptions
from imgsim.core.errors import VectorRefused
from imgsim.core.filters import metadata_tokens, microseconds
from imgsim.core.models import Hit, Point, SearchFilter, Vector, Vectors

LIVE = "imgsim=live"
"""The alias. No collection has this name: theirs begin with ``imgsim-``."""

PAGE = 1000
"""Points of which one request reads the ids, or that it removes."""

BATCH = 64
"""Vectors that one request carries: the client turns 1280 dimensions into JSON, or back, in 10 ms of the event loop."""

BATCH_BYTES = 16 * 1024 * 1024
"""Half of what a server takes in one request unless told otherwise (``service.max_request_size_mb`` 32)."""

BYTES_PER_VALUE = 24
"""A float32 as JSON, widened to float64 by the client: at most so many bytes with its comma."""

PING_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class _Collection:
    name: str
    dimensions: int
    upserts: Coalescer[PointStruct]


class QdrantVectorIndex:
    """A collection of cosine vectors for each model behind `client`, which is closed with the index.

    `options` say how a server keeps them; None is for the local client. Concurrent upserts share requests.
    A write has been applied when a method returns (``wait``). A model without a collection is
    ``NotSearchable`` in every method that takes one; what the server finds wrong with a request is
    ``InvalidRequest``, with its words.
    """

    def __init__(self, client: AsyncQdrantClient, options: ServerOptions | None = None) -> None:
        self._client = client
        self._options = options
        self._collections: dict[str, _Collection] = {}
        self._asking = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for collection in self._collections.values():
            await collection.upserts.close()
        await self._client.close()

    async def ping(self) -> None:
        with translated():
            async with asyncio.timeout(PING_SECONDS):
                await self._client.get_collections()

    async def open_collection(self, model: str, dimensions: int) -> None:
        name = collection_name(model)
        with translated():
            if not await self._client.collection_exists(name):
                await self._create(name, dimensions)
            if self._options is not None:
                await self._index_payload(name)
        found = (await self._collection(model)).dimensions
        if found != dimensions:
            raise VectorRefused(f"The collection of {model} has {found} dimensions, not {dimensions}.")

    async def _create(self, name: str, dimensions: int) -> None:
        options = self._options
        vectors = models.VectorParams(
            size=dimensions, distance=models.Distance.COSINE, on_disk=options.quantized if options else None
        )
        try:
            await self._client.create_collection(
                name,
                vectors_config=vectors,
                **(options.layout() if options else {}),  # type: ignore[arg-type]
            )
        except (UnexpectedResponse, ValueError):
            if not await self._client.collection_exists(name):  # else another process made it first
                raise

    async def _index_payload(self, name: str) -> None:
        """Make the indexes that are missing, also where a process died after it had made the collection."""
        there = (await self._client.get_collection(name)).payload_schema
        for field, schema in PAYLOAD_INDEXES.items():
            if field not in there:
                await self._client.create_payload_index(name, field, schema, wait=True, ordering=ORDERING)

    async def models(self) -> Sequence[str]:
        with translated():
            found = (await self._client.get_collections()).collections
        return sorted(model for each in found if (model := model_of(each.name)) is not None)

    async def set_live(self, model: str) -> None:
        name = (await self._collection(model)).name
        remove = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=LIVE))  # if it exists
        create = models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=name, alias_name=LIVE))
        with translated():
            await self._client.update_collection_aliases([remove, create])  # all of them at once

    async def live(self) -> str | None:
        with translated():
            aliases = (await self._client.get_aliases()).aliases
        return next((model_of(alias.collection_name) for alias in aliases if alias.alias_name == LIVE), None)

    async def upsert(self, model: str, points: Sequence[Point]) -> None:
        collection = await self._collection(model)
        structs = [
            PointStruct(
                id=str(point.id),
                vector=checked_vector(point.vector, collection.dimensions, model).tolist(),
                payload=payload_of(point),
            )
            for point in points
        ]
        await collection.upserts.submit(structs)

    async def _write(self, name: str, points: Sequence[PointStruct]) -> None:
        with translated(name):
            await self._client.upsert(name, points=list(points), wait=True, ordering=ORDERING)

    async def query(
        self,
        model: str,
        vector: Vector,
        limit: int,
        where: SearchFilter,
        min_score: float | None = None,
        exact: bool = False,
    ) -> Sequence[Hit]:
        collection = await self._collection(model)
        asked = checked_vector(vector, collection.dimensions, model)
        with translated(collection.name):
            answer = await self._client.query_points(
                collection.name,
                query=asked.tolist(),
                limit=limit,
                query_filter=_filter(where),
                search_params=self._options.search(exact) if self._options else None,
                with_payload=False,
            )
        return ranked([Hit(_uuid(point.id), point.score) for point in answer.points], min_score)

    async def fetch(self, model: str, image_ids: Sequence[UUID]) -> Mapping[UUID, Vector]:
        name = (await self._collection(model)).name
        found: dict[UUID, Vector] = {}
        with translated(name):
            for batch in chunks(image_ids, BATCH):
                records = await self._client.retrieve(name, ids=_texts(batch), with_payload=False, with_vectors=True)
                found.update((_uuid(record.id), np.array(record.vector, dtype=np.float32)) for record in records)
        return found

    async def sample(self, model: str, collection: str | None, n: int) -> Vectors:
        found = await self._collection(model)
        with translated(found.name):
            drawn = await self._client.query_points(
                found.name,
                query=models.SampleQuery(sample=models.Sample.RANDOM),
                limit=n,
                query_filter=_filter(SearchFilter(collection)),
                with_payload=False,
            )
        vectors = await self.fetch(model, [_uuid(point.id) for point in drawn.points])
        return stacked(vectors.values(), found.dimensions)

    async def set_payload(self, model: str, image_id: UUID, tags: Sequence[str], metadata: Mapping[str, Any]) -> None:
        name = (await self._collection(model)).name
        by_id = models.Filter(must=[models.HasIdCondition(has_id=[str(image_id)])])  # by id alone, 404 if missing
        with translated(name):
            labels = labels_of(tags, metadata)
            await self._client.set_payload(name, labels, points=by_id, wait=True, ordering=ORDERING)

    async def delete(self, image_ids: Sequence[UUID]) -> None:
        for model in await self.models():
            name = collection_name(model)
            with translated(name):
                for batch in chunks(image_ids, PAGE):
                    await self._client.delete(name, points_selector=_texts(batch), wait=True, ordering=ORDERING)

    async def count(self, model: str) -> int:
        name = (await self._collection(model)).name
        with translated(name):
            return (await self._client.count(name, exact=True)).count

    async def ids(self, model: str) -> AsyncIterator[UUID]:
        name = (await self._collection(model)).name
        offset: models.ExtendedPointId | None = None
        while True:
            with translated(name):
                records, offset = await self._client.scroll(name, limit=PAGE, offset=offset, with_payload=False)
            for record in records:
                yield _uuid(record.id)
            if offset is None:
                return

    async def _collection(self, model: str) -> _Collection:
        """The model's collection, asked for once."""
        if model not in self._collections:
            async with self._asking:
                if model not in self._collections:
                    self._collections[model] = await self._ask(model)
        return self._collections[model]

    async def _ask(self, model: str) -> _Collection:
        name = collection_name(model)
        with translated():
            if not await self._client.collection_exists(name):
                raise no_collection(model)
            params = (await self._client.get_collection(name)).config.params.vectors
        if not isinstance(params, models.VectorParams):
            raise VectorRefused(f"The collection {name} was not made by imgsim: its vectors have names.")
        most = max(1, min(BATCH, BATCH_BYTES // (params.size * BYTES_PER_VALUE)))
        return _Collection(name, params.size, Coalescer(partial(self._write, name), most, "vector index"))


def _filter(where: SearchFilter) -> models.Filter | None:
    must: list[models.Condition] = [] if where.collection is None else [_is("collection", where.collection)]
    must += [_is("tags", tag) for tag in where.tags]
    must += [_is("metadata", token) for token in metadata_tokens(where.metadata)]
    if where.any_tags:
        must.append(_any_tag(where.any_tags))
    created = [None if each is None else microseconds(each) for each in (where.created_from, where.created_to)]
    if created != [None, None]:
        must.append(models.FieldCondition(key="created", range=models.Range(gte=created[0], lt=created[1])))
    must_not: list[models.Condition] = [_any_tag(where.no_tags)] if where.no_tags else []
    return models.Filter(must=must or None, must_not=must_not or None) if must or must_not else None


def _is(key: str, value: str) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _any_tag(tags: Sequence[str]) -> models.FieldCondition:
    return models.FieldCondition(key="tags", match=models.MatchAny(any=list(tags)))


def _texts(image_ids: Sequence[UUID]) -> list[models.ExtendedPointId]:
    return [str(each) for each in image_ids]


def _uuid(point_id: models.ExtendedPointId) -> UUID:
    return point_id if isinstance(point_id, UUID) else UUID(str(point_id))
