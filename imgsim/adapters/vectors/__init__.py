"""Vector indexes by URL scheme, and what all of them share: names of collections, and which vectors they take."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from imgsim.core.errors import NotSearchable, SettingsError, VectorRefused
from imgsim.core.filters import metadata_tokens, microseconds
from imgsim.core.models import Hit, Point, Vector, Vectors
from imgsim.core.ports import VectorIndex
from imgsim.settings import Settings

_PREFIX = "imgsim-"
"""Every collection's name begins so: a server may hold other programs' collections too."""


def collection_name(model: str) -> str:
    """`model` as a name that folders, URL paths and Qdrant servers take: ``imgsim-ViT-B-32=2Flaion2b_s34b_b79k``.

    Percent-encoding with ``=`` for ``%``, which not every part of a server's way leaves alone.
    """
    return _PREFIX + quote(model, safe="@").replace("%", "=")


def model_of(name: str) -> str | None:
    """The model of a collection's name; None for a collection that is not ours."""
    return unquote(name.removeprefix(_PREFIX).replace("=", "%")) if name.startswith(_PREFIX) else None


def checked_vector(vector: Vector, dimensions: int, model: str) -> Vector:
    """`vector` as ``(dimensions,)`` float32; ``VectorRefused`` where it is not that, or not finite.

    The engines must not be asked: Qdrant Edge takes a NaN, and every later answer is wrong.
    """
    array = np.asarray(vector, dtype=np.float32)
    if array.shape != (dimensions,):
        raise VectorRefused(f"The vectors of {model} have the shape ({dimensions},), not {array.shape}.")
    if not np.isfinite(array).all():
        raise VectorRefused(f"A vector for {model} holds NaN or infinity.")
    return array


def no_collection(model: str) -> NotSearchable:
    """What every method but ``open_collection`` raises for a model without a collection."""
    return NotSearchable(f"The vector index has no collection for the model {model!r}.")


def ranked(hits: Sequence[Hit], min_score: float | None) -> Sequence[Hit]:
    """`hits` best first, ties by id, without those below `min_score`, scores cut to [-1, 1].

    Applied to the answer, not in the engine: the best `limit` that reach `min_score` are those of the best
    `limit`, and no quantized score decides at the threshold. Float32 can give 1.0000001 for two equal vectors.
    """
    cut = [Hit(hit.id, min(1.0, max(-1.0, hit.score))) for hit in hits]
    kept = [hit for hit in cut if min_score is None or hit.score >= min_score]
    return sorted(kept, key=lambda hit: (-hit.score, str(hit.id)))


def payload_of(point: Point) -> dict[str, Any]:
    """What Qdrant keeps beside a vector, server and embedded alike."""
    payload = {"collection": point.collection, **labels_of(point.tags, point.metadata)}
    return payload if point.created_at is None else payload | {"created": microseconds(point.created_at)}


def labels_of(tags: Sequence[str], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the payload that may change."""
    return {"tags": list(tags), "metadata": metadata_tokens(metadata)}


def stacked(vectors: Iterable[Vector], dimensions: int) -> Vectors:
    """``(n, dimensions)`` float32, also where there are none."""
    return np.array([*vectors], dtype=np.float32).reshape(-1, dimensions)


def _edge(settings: Settings) -> VectorIndex:
    from imgsim.adapters.vectors.qdrant_edge import QdrantEdgeVectorIndex

    url = settings.part_url("vectors")
    folder = url.removeprefix("qdrant-edge:").removeprefix("//")
    if not folder:
        raise SettingsError(f"The setting vectors.url must name a folder: qdrant-edge:///folder (got {url!r}).")
    return QdrantEdgeVectorIndex(Path(folder))


def _memory(settings: Settings) -> VectorIndex:
    from imgsim.adapters.vectors.qdrant_memory import qdrant_memory_vector_index

    return qdrant_memory_vector_index()


def _server(settings: Settings) -> VectorIndex:
    from imgsim.adapters.vectors.qdrant_server import qdrant_server_vector_index

    return qdrant_server_vector_index(settings)


def _pgvector(settings: Settings) -> VectorIndex:
    from imgsim.adapters.vectors.pgvector import PgvectorVectorIndex

    database = settings.database
    return PgvectorVectorIndex(settings.part_url("vectors"), database.pool_min, database.pool_max)


VECTOR_INDEXES: Mapping[str, Callable[[Settings], VectorIndex]] = {
    "qdrant-edge": _edge,
    "http": _server,
    "https": _server,
    "postgresql": _pgvector,
    "qdrant-memory": _memory,
}
"""What makes the index that the settings describe, by the scheme of ``vectors.url``: ``qdrant-edge:///absolute/folder``
or ``qdrant-edge://relative/folder`` (taken as it stands, without percent-decoding), ``http(s)://qdrant:6333``,
``postgresql://user:password@host/name``, and ``qdrant-memory:``."""
