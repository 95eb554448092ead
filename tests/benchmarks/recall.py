"""How much of the true nearest the indexes find, and how fast, beside an exact search in numpy.

The parameters of the indexes are chosen from these tables: the oversampling of Qdrant Edge and of pgvector, and
pgvector's ef_search. The vectors are made up, but lie as embeddings do: off the origin, in clusters of near
duplicates, most of their variance in few directions.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

import numpy as np
import qdrant_edge as edge

from imgsim.adapters.coalescer import chunks
from imgsim.adapters.vectors import pgvector_tables, postgres_pool
from imgsim.adapters.vectors.edge_collection import Collection
from imgsim.adapters.vectors.edge_operations import CHUNK
from imgsim.adapters.vectors.pgvector import PgvectorVectorIndex
from imgsim.core.models import Point, SearchFilter, Vector, Vectors
from tests.benchmarks.tables import Column, Row, Table
from tests.servers import PostgreSQL

MODEL = "recall"
FEW, MANY = 10, 100
"""Results asked for; the times are those of few."""

WIDE_POINTS, WIDE, NARROW = 100_000, 1280, 512
"""Points up to which vectors have the packaged model's dimensions; beyond, those of ViT-B-32."""

GRAPH_POINTS = 50_000
"""Points up to which pgvector is measured: it makes its graph while they are written, 200 to 1,000 a second."""

Search = Callable[[Vector, int], Sequence[UUID]]
"""What gives the ids of the best so many."""

_COLUMNS = (
    Column("recall@10", "recall_10", ".4f"),
    Column("recall@100", "recall_100", ".4f"),
    Column("p50 ms", "p50_ms", ".2f"),
    Column("p99 ms", "p99_ms", ".2f"),
)


def run(options: argparse.Namespace) -> list[Row]:
    table = Table("Recall against exact search", "points x dimensions, index", _COLUMNS, 48)
    return table.fill(_rows([int(text) for text in options.points.split(",")], options.queries))


def _rows(sizes: Sequence[int], queries: int) -> Iterator[Row]:
    for points in sizes:
        rows, asked = embeddings(points, WIDE if points <= WIDE_POINTS else NARROW, queries)
        best = _nearest(rows, asked, MANY)
        yield from _edge(rows, asked, best)
        if points <= GRAPH_POINTS:
            narrow, asked = embeddings(points, NARROW if points > 10_000 else WIDE, queries)
            yield from _pgvector(narrow, asked, _nearest(narrow, asked, MANY))


def embeddings(points: int, dimensions: int, queries: int, seed: int = 1) -> tuple[Vectors, Vectors]:
    """``(points, dimensions)`` and ``(queries, dimensions)`` float32 rows of unit length.

    One cluster for each 50 points. A direction's variance falls with the square root of its number.
    """
    chance = np.random.default_rng(seed)
    scale = (np.arange(1, dimensions + 1) ** -0.5).astype(np.float32)
    mean = chance.standard_normal(dimensions, np.float32) * scale
    centres = mean + chance.standard_normal((max(1, points // 50), dimensions), np.float32) * scale
    made = np.empty((points + queries, dimensions), np.float32)
    for start in range(0, len(made), 10_000):
        part = made[start : start + 10_000]
        part[:] = chance.standard_normal(part.shape, np.float32) * (0.6 * scale)
        part += centres[chance.integers(0, len(centres), len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return made[:points], made[points:]


def _nearest(rows: Vectors, asked: Vectors, k: int) -> list[list[int]]:
    """Numbers of the `k` rows with the highest scores for each of `asked`, best first."""
    return [np.argsort(-(rows @ each))[:k].tolist() for each in asked]


def _edge(rows: Vectors, asked: Vectors, best: Sequence[Sequence[int]]) -> Iterator[Row]:
    name = f"{len(rows):,} x {rows.shape[1]}, Qdrant Edge"
    with tempfile.TemporaryDirectory() as folder:
        collection = Collection.create(MODEL, rows.shape[1], Path(folder) / "collection")
        for numbers in chunks(range(len(rows)), CHUNK):
            ids = [UUID(int=n) for n in numbers]
            payload = {"collection": "default", "tags": []}
            points = [edge.Point(each, rows[each.int].tolist(), payload) for each in ids]
            collection.update(edge.UpdateOperation.upsert_points(points), ids)
        yield {"name": f"{name} float"} | _measure(_edge_search(collection, 1), asked, best)
        collection.shard.optimize()
        for times in (1.0, 2.0, 3.0, 4.0, 6.0):
            yield {"name": f"{name} int8 x {times:g}"} | _measure(_edge_search(collection, times), asked, best)
        collection.close()


def _edge_search(collection: Collection, times: float) -> Search:
    params = edge.SearchParams(quantization=edge.QuantizationSearchParams(rescore=True, oversampling=times))

    def search(vector: Vector, limit: int) -> Sequence[UUID]:
        request = edge.QueryRequest(limit=limit, query=edge.Query.Nearest(vector.tolist()), params=params)
        return [point.id for point in collection.shard.query(request)]  # type: ignore[misc]

    return search


def _pgvector(rows: Vectors, asked: Vectors, best: Sequence[Sequence[int]]) -> Iterator[Row]:
    name = f"{len(rows):,} x {rows.shape[1]}, pgvector"
    with PostgreSQL() as server, asyncio.Runner() as runner:
        runner.run(_fill(server.url, rows))
        for ef, times in ((40, 2), (100, 2), (200, 1), (200, 2), (200, 4), (400, 4)):
            chosen = patch.dict(postgres_pool.SESSION, {"hnsw.ef_search": str(ef)})
            with chosen, patch.object(pgvector_tables, "OVERSAMPLING", times):
                index = PgvectorVectorIndex(server.url, 1, 1)
                runner.run(index.__aenter__())
                measured = _measure(_pgvector_search(index, runner), asked, best)
                runner.run(index.__aexit__(None, None, None))
            yield {"name": f"{name} ef_search {ef}, x {times}"} | measured


async def _fill(url: str, rows: Vectors) -> None:
    async with PgvectorVectorIndex(url, 1, 2) as index:
        await index.open_collection(MODEL, rows.shape[1])
        for numbers in chunks(range(len(rows)), 1_000):
            await index.upsert(MODEL, [Point(UUID(int=n), rows[n], "default") for n in numbers])


def _pgvector_search(index: PgvectorVectorIndex, runner: asyncio.Runner) -> Search:
    def search(vector: Vector, limit: int) -> Sequence[UUID]:
        return [hit.id for hit in runner.run(index.query(MODEL, vector, limit, SearchFilter()))]

    return search


def _measure(search: Search, asked: Vectors, best: Sequence[Sequence[int]]) -> Row:
    search(asked[0], MANY)  # warm
    seconds, few = [], []
    for vector in asked:
        started = time.perf_counter()
        found = search(vector, FEW)
        seconds.append(time.perf_counter() - started)
        few.append(found)
    many = [search(vector, MANY) for vector in asked]
    return {
        "recall_10": _recall(few, best, FEW),
        "recall_100": _recall(many, best, MANY),
        "p50_ms": float(np.percentile(seconds, 50)) * 1e3,
        "p99_ms": float(np.percentile(seconds, 99)) * 1e3,
    }


def _recall(found: Sequence[Sequence[UUID]], best: Sequence[Sequence[int]], k: int) -> float:
    """The share of the `k` best that were found."""
    shares = [len({each.int for each in ids} & set(true[:k])) / k for ids, true in zip(found, best, strict=True)]
    return float(np.mean(shares))
