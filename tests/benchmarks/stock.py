"""A data directory with any number of images that are done, without their files; and its engine, bare."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import qdrant_edge as edge

from imgsim.adapters.database.rows import row_of
from imgsim.adapters.embedding.packaged import PackagedEmbedder
from imgsim.adapters.vectors.qdrant_edge import SEARCH
from imgsim.container import Container
from imgsim.core.models import EmbeddingInfo, Image, ImageState, Vectors, new_image_id
from imgsim.running import opened
from imgsim.settings import load_settings

_MODEL, _DIMENSIONS = PackagedEmbedder.model_id, PackagedEmbedder.dimensions
_AT_ONCE = 1000
_PAYLOAD = {"collection": "default", "tags": []}
"""Of a point, as the index writes it."""
_CLUSTERS = 200


def fill(data_dir: Path, points: int) -> list[UUID]:
    """Rows, cached embeddings and vectors of `points` images of the packaged model: unit vectors in loose clusters.

    The engine gets them directly, and quantizes them here and now: the index would begin that beside what is measured.
    """
    asyncio.run(_make(data_dir))
    ids = [new_image_id() for _ in range(points)]
    with _opened_shard(data_dir) as shard, sqlite3.connect(data_dir / "imgsim.sqlite") as database:
        for group, vectors in _groups(ids):
            found = [edge.Point(*each, _PAYLOAD) for each in zip(group, vectors.tolist(), strict=True)]
            shard.update(edge.UpdateOperation.upsert_points(found))
            _insert(database, "image", [_image_row(image_id) for image_id in group])
            _insert(database, "cached_embedding", [_cached(*each) for each in zip(group, vectors, strict=True)])
        shard.optimize()
        shard.flush()
    return ids


async def _make(data_dir: Path) -> None:
    """The tables and the collection."""
    async with opened(Container(settings=load_settings(overrides={"data_dir": data_dir}))):
        pass


def _groups(ids: Sequence[UUID]) -> Iterator[tuple[Sequence[UUID], Vectors]]:
    chance = np.random.default_rng(1)
    centres = chance.standard_normal((_CLUSTERS, _DIMENSIONS), np.float32)
    for start in range(0, len(ids), _AT_ONCE):
        group = ids[start : start + _AT_ONCE]
        near = centres[chance.integers(0, _CLUSTERS, len(group))]
        vectors = near + chance.standard_normal(near.shape, np.float32)
        yield group, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _image_row(image_id: UUID) -> dict[str, Any]:
    now = datetime.now(UTC)
    embedding = EmbeddingInfo(_MODEL, _DIMENSIONS)
    image = Image(
        image_id, "default", ImageState.DONE, None, False, image_id.hex * 2, f"{image_id}.jpg", "image/jpeg", 50_000,
        640, 480, [], {}, 1, None, embedding, {}, now, now,
    )  # fmt: skip
    return row_of(image) | {"due_at": None}


def _cached(image_id: UUID, vector: np.ndarray[Any, Any]) -> dict[str, Any]:
    key = {"sha256": image_id.hex * 2, "model": _MODEL, "preprocessing": PackagedEmbedder.preprocessing}
    return {**key, "vector": vector.astype("<f4").tobytes(), "orphaned_at": None}


def _insert(database: sqlite3.Connection, table: str, rows: Sequence[dict[str, Any]]) -> None:
    places = ", ".join("?" for _ in rows[0])
    values = ([_plain(value) for value in row.values()] for row in rows)
    database.executemany(f"INSERT INTO {table} ({', '.join(rows[0])}) VALUES ({places})", values)


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    return value.isoformat(" ") if isinstance(value, datetime) else value


def search_bare(data_dir: Path, chosen: Sequence[UUID], limit: int, filtered: bool) -> list[float]:
    """Seconds of each query on the engine itself, the vector known; with the filter by collection or without.

    The data directory must not be in use.
    """
    in_collection = edge.FieldCondition(key="collection", match=edge.MatchValue("default"))
    where = edge.Filter(must=[in_collection]) if filtered else None
    seconds = []
    with _opened_shard(data_dir) as shard:
        for image_id in chosen:
            vector: Any = shard.retrieve([image_id], with_payload=False, with_vector=True)[0].vector
            request = edge.QueryRequest(limit=limit, query=edge.Query.Nearest(vector), filter=where, params=SEARCH)
            started = time.perf_counter()
            shard.query(request)
            seconds.append(time.perf_counter() - started)
    return seconds


@contextmanager
def _opened_shard(data_dir: Path) -> Iterator[edge.EdgeShard]:
    """The engine's own, as the index describes it."""
    description = next((data_dir / "vectors").glob("*/collection.json"))
    described = json.loads(description.read_text())
    assert described["model"] == _MODEL
    with closing(edge.EdgeShard.load(str(description.parent / described.get("shard", "shard")))) as shard:
        yield shard
