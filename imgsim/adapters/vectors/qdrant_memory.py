"""Vectors behind a Qdrant client. On ``:memory:`` it needs no server and forgets all: the index for tests.

Only calls whose meaning is the same on a Qdrant server are used, so the class serves both.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self
from uuid import UUID

import httpx
import numpy as np
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from imgsim.adapters.vectors import checked_vector, chunks, collection_name, model_of, no_collection, ranked
from imgsim.core.errors import Unavailable, VectorRefused
from imgsim.core.models import Hit, Point, SearchFilter, Vector

LIVE = "imgsim=live"
"""The alias. No collection has this name: theirs begin with ``imgsim-``."""

PAGE = 1000
"""Points that one request reads or removes."""

BATCH = 256
"""Points that one request writes: 1.3 MB at 1280 dimensions, far below a server's limit of 32 MB."""


class QdrantVectorIndex:
    """A collection of cosine vectors for each model behind `client`, which is closed with the index.

    A model without a collection is ``NotSearchable`` in every method that takes one.
    """

    def __init__(self, client: AsyncQdrantClient, payload_indexes: bool = True) -> None:
        self._client = client
        self._payload_indexes = payload_indexes
        self._dimensions: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def ping(self) -> None:
        with _translated():
            await self._client.get_collections()

    async def open_collection(self, model: str, dimensions: int) -> None:
        name = collection_name(model)
        with _translated():
            if not await self._client.collection_exists(name):
                await self._create(name, dimensions)
        found = await self._size(model)
        if found != dimensions:
            raise VectorRefused(f"The collection of {model} has {found} dimensions, not {dimensions}.")

    async def _create(self, name: str, dimensions: int) -> None:
        vectors = models.VectorParams(size=dimensions, distance=models.Distance.COSINE)
        try:
            await self._client.create_collection(name, vectors_config=vectors)
        except (UnexpectedResponse, ValueError):
            if not await self._client.collection_exists(name):  # else another process made it first
                raise
        for field in ("collection", "tags") if self._payload_indexes else ():
            await self._client.create_payload_index(name, field, models.PayloadSchemaType.KEYWORD, wait=True)

    async def models(self) -> Sequence[str]:
        with _translated():
            found = (await self._client.get_collections()).collections
        return sorted(model for each in found if (model := model_of(each.name)) is not None)

    async def set_live(self, model: str) -> None:
        await self._size(model)
        with _translated():
            aliases = (await self._client.get_aliases()).aliases
            remove = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=LIVE))
            create = models.CreateAliasOperation(
                create_alias=models.CreateAlias(collection_name=collection_name(model), alias_name=LIVE)
            )
            is_set = any(alias.alias_name == LIVE for alias in aliases)
            await self._client.update_collection_aliases([remove, create] if is_set else [create])  # one transaction

    async def live(self) -> str | None:
        with _translated():
            aliases = (await self._client.get_aliases()).aliases
        return next((model_of(alias.collection_name) for alias in aliases if alias.alias_name == LIVE), None)

    async def upsert(self, model: str, points: Sequence[Point]) -> None:
        size = await self._size(model)
        structs = [
            models.PointStruct(
                id=str(point.id),
                vector=checked_vector(point.vector, size, model).tolist(),
                payload={"collection": point.collection, "tags": list(point.tags)},
            )
            for point in points
        ]
        with _translated():
            for batch in chunks(structs, BATCH):
                await self._client.upsert(collection_name(model), points=list(batch), wait=True)

    async def query(
        self, model: str, vector: Vector, limit: int, where: SearchFilter, min_score: float | None = None
    ) -> Sequence[Hit]:
        asked = checked_vector(vector, await self._size(model), model)
        with _translated():
            answer = await self._client.query_points(
                collection_name(model),
                query=asked.tolist(),
                limit=limit,
                query_filter=_filter(where),
                with_payload=False,
            )
        return ranked([Hit(_uuid(point.id), point.score) for point in answer.points], min_score)

    async def fetch(self, model: str, image_ids: Sequence[UUID]) -> Mapping[UUID, Vector]:
        await self._size(model)
        found: dict[UUID, Vector] = {}
        with _translated():
            for batch in chunks(image_ids, PAGE):
                records = await self._client.retrieve(
                    collection_name(model), ids=_texts(batch), with_payload=False, with_vectors=True
                )
                found.update((_uuid(record.id), np.array(record.vector, dtype=np.float32)) for record in records)
        return found

    async def set_tags(self, model: str, image_id: UUID, tags: Sequence[str]) -> None:
        await self._size(model)
        by_id = models.Filter(must=[models.HasIdCondition(has_id=[str(image_id)])])  # by id alone, 404 if missing
        with _translated():
            await self._client.set_payload(collection_name(model), {"tags": list(tags)}, points=by_id, wait=True)

    async def delete(self, image_ids: Sequence[UUID]) -> None:
        for model in await self.models():
            with _translated():
                for batch in chunks(image_ids, PAGE):
                    await self._client.delete(collection_name(model), points_selector=_texts(batch), wait=True)

    async def count(self, model: str) -> int:
        await self._size(model)
        with _translated():
            return (await self._client.count(collection_name(model), exact=True)).count

    async def ids(self, model: str) -> AsyncIterator[UUID]:
        await self._size(model)
        offset: models.ExtendedPointId | None = None
        while True:
            with _translated():
                records, offset = await self._client.scroll(
                    collection_name(model), limit=PAGE, offset=offset, with_payload=False
                )
            for record in records:
                yield _uuid(record.id)
            if offset is None:
                return

    async def _size(self, model: str) -> int:
        """The dimensions of the model's collection, asked once."""
        if model not in self._dimensions:
            name = collection_name(model)
            with _translated():
                if not await self._client.collection_exists(name):
                    raise no_collection(model)
                params = (await self._client.get_collection(name)).config.params.vectors
            if not isinstance(params, models.VectorParams):
                raise VectorRefused(f"The collection {name} was not made by imgsim: its vectors have names.")
            self._dimensions[model] = params.size
        return self._dimensions[model]


def qdrant_memory_vector_index() -> QdrantVectorIndex:
    """An index that lives as long as the object. The local client keeps no payload indexes, and warns when asked."""
    return QdrantVectorIndex(AsyncQdrantClient(":memory:"), payload_indexes=False)


def _filter(where: SearchFilter) -> models.Filter | None:
    wanted = [("collection", where.collection)] if where.collection is not None else []
    wanted += [("tags", tag) for tag in where.tags]
    conditions = [models.FieldCondition(key=key, match=models.MatchValue(value=value)) for key, value in wanted]
    return models.Filter(must=conditions) if conditions else None


def _texts(image_ids: Sequence[UUID]) -> list[models.ExtendedPointId]:
    return [str(each) for each in image_ids]


def _uuid(point_id: models.ExtendedPointId) -> UUID:
    return point_id if isinstance(point_id, UUID) else UUID(str(point_id))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (ApiException, httpx.TransportError, RuntimeError) as error:  # RuntimeError: the local client is closed
        raise Unavailable(f"Qdrant cannot be reached or refused the call: {error}") from error
