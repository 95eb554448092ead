"""The tables of the pgvector index, and how they are searched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from imgsim.adapters.coalescer import Coalescer
from imgsim.adapters.vectors.postgres_pool import LOCK
from imgsim.core.filters import metadata_tokens
from imgsim.core.models import SearchFilter, Vector

EXACT_ROWS = 2_000
"""Rows that pass a filter up to which all are compared: 8 ms with 1280 dimensions, the graph 3 ms."""

OVERSAMPLING = 4
"""The graph gives so many times the hits asked for by float16; the full vectors choose among them.

At 50,000 clustered vectors of 512 dimensions and an ``ef_search`` of 200, recall@10, recall@100 and the p50 are .998,
.980 and 4.5 ms by 1 x, 1.000, .980 and 4.3 ms by 2 x, 1.000, .995 and 5.0 ms by 4 x."""

GRAPH_LIMIT = 1_000
"""Hits up to which the graph is asked: for more it would be walked all over."""

GRAPH_DIMENSIONS = 4_000
"""What pgvector can index, as float16. More dimensions are always compared one by one."""

REGISTRY = """
CREATE TABLE IF NOT EXISTS imgsim_vector_collection (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model text NOT NULL UNIQUE,
    dimensions integer NOT NULL,
    live boolean NOT NULL DEFAULT false
)"""

COLUMNS = "collection, tags, embedding, created_at, metadata"
"""Of a collection's table, after its ``id``. The last two came later."""

ADDED = "created_at timestamptz", "metadata text[] NOT NULL DEFAULT '{}'"

Row = tuple[UUID, str, list[str], Vector, datetime | None, list[str]]
"""A row of a collection's table, as the driver takes it."""


@dataclass(frozen=True, slots=True)
class Collection:
    table: str
    dimensions: int
    upserts: Coalescer[Row]

    @property
    def graph(self) -> str | None:
        """What the index orders by, if there is one; ``$1`` is the vector asked for."""
        if self.dimensions > GRAPH_DIMENSIONS:
            return None
        half = f"halfvec({self.dimensions})"
        return f"(embedding::{half}) <=> $1::vector::{half}"


def table_name(collection_id: int) -> str:
    return f"imgsim_vectors_{collection_id}"


async def make_collection(model: str, dimensions: int, connection: asyncpg.Connection) -> None:
    """Register the model and make its table, if they are missing."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        made = await connection.fetchval(
            "INSERT INTO imgsim_vector_collection (model, dimensions) SELECT $1, $2 WHERE NOT EXISTS"
            " (SELECT FROM imgsim_vector_collection WHERE model = $1) RETURNING id",
            model,
            dimensions,
        )
        if made is None:
            await _add_columns(connection, model)
            return
        table = table_name(made)
        await connection.execute(
            f"CREATE TABLE {table} (id uuid PRIMARY KEY, collection text NOT NULL, tags text[] NOT NULL,"
            f" embedding vector({dimensions}) NOT NULL, {', '.join(ADDED)})"
        )
        await connection.execute(f"CREATE INDEX ON {table} (collection)")
        await connection.execute(f"CREATE INDEX ON {table} USING gin (tags)")
        await _index_added(connection, table)
        if dimensions <= GRAPH_DIMENSIONS:
            half = f"halfvec({dimensions})"
            await connection.execute(f"CREATE INDEX ON {table} USING hnsw ((embedding::{half}) halfvec_cosine_ops)")


async def _add_columns(connection: asyncpg.Connection, model: str) -> None:
    """To a table from before: it is asked first, since changing it waits until nobody reads it."""
    table = table_name(await connection.fetchval("SELECT id FROM imgsim_vector_collection WHERE model = $1", model))
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attname = 'metadata'"
    if await connection.fetchval(columns, table) is None:
        added = ", ".join(f"ADD COLUMN {column}" for column in ADDED)
        await connection.execute(f"ALTER TABLE {table} {added}")
        await _index_added(connection, table)


async def _index_added(connection: asyncpg.Connection, table: str) -> None:
    await connection.execute(f"CREATE INDEX ON {table} (created_at)")
    await connection.execute(f"CREATE INDEX ON {table} USING gin (metadata)")


async def switch_live(model: str, connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)  # or two could wait for each other's rows
        await connection.execute("UPDATE imgsim_vector_collection SET live = (model = $1)", model)


async def nearest(
    collection: Collection,
    asked: Vector,
    limit: int,
    where: SearchFilter,
    exact: bool,
    connection: asyncpg.Connection,
) -> Sequence[Mapping[str, Any]]:
    """The best rows, at least `limit` if so many pass: ``id`` and ``distance``. `exact`: not by the graph."""
    passing, values = _filter(where)
    select = f"SELECT id, embedding <=> $1 AS distance FROM {collection.table} {passing}"
    by_graph = collection.graph and limit <= GRAPH_LIMIT and not exact
    if by_graph and await _are_many(collection.table, where, connection):
        candidates = f"{select} ORDER BY {collection.graph} LIMIT $2"
        rows = await connection.fetch(candidates, asked, OVERSAMPLING * limit, *values)
        if len(rows) >= limit:  # else it was left before it had found all that pass
            return list(rows)
    return list(await connection.fetch(f"{select} ORDER BY distance, id LIMIT $2", asked, limit, *values))


async def random_ids(table: str, collection: str | None, n: int, connection: asyncpg.Connection) -> Sequence[UUID]:
    """The ids of `n` different rows of `collection` (None: of all), or of as many as there are.

    Among many rows from a few pages of the table, which read each about 30 times as many rows; else, and where these
    have too few of the collection, from all of its rows.
    """
    passing, values = _filter(SearchFilter(collection), first=1)
    choose = f"{passing} ORDER BY random() LIMIT {n}"
    rows = await connection.fetchval("SELECT reltuples FROM pg_class WHERE oid = $1::regclass", table)
    percent = 100 * 30 * n / max(rows, 1)
    found: Sequence[Mapping[str, Any]] = []
    if percent < 50:
        found = await connection.fetch(f"SELECT id FROM {table} TABLESAMPLE SYSTEM ({percent:.6f}) {choose}", *values)
    if len(found) < n:
        found = await connection.fetch(f"SELECT id FROM {table} {choose}", *values)
    return [row["id"] for row in found]


async def _are_many(table: str, where: SearchFilter, connection: asyncpg.Connection) -> bool:
    """Whether more than ``EXACT_ROWS`` rows pass. Looks at no more than those: 0.2 ms."""
    passing, values = _filter(where, first=1)
    some = f"SELECT FROM {table} {passing} LIMIT {EXACT_ROWS + 1}"
    return bool(await connection.fetchval(f"SELECT count(*) FROM ({some}) AS found", *values) > EXACT_ROWS)


def _filter(where: SearchFilter, first: int = 3) -> tuple[str, list[Any]]:
    """A ``WHERE`` clause, or nothing, with its values, which are ``$first`` and so on."""
    tests: list[str] = []
    values: list[Any] = []
    for test, value in (
        ("collection = {}", where.collection),
        ("tags @> {}", list(where.tags) or None),
        ("tags && {}", list(where.any_tags) or None),
        ("NOT tags && {}", list(where.no_tags) or None),
        ("created_at >= {}", where.created_from),
        ("created_at < {}", where.created_to),
        ("metadata @> {}", metadata_tokens(where.metadata) or None),
    ):
        if value is not None:
            tests.append(test.format(f"${first + len(values)}"))
            values.append(value)
    return (f"WHERE {' AND '.join(tests)}" if tests else "", values)


def score(distance: float) -> float:
    """Cosine similarity; 0 where a vector has no direction, which pgvector calls a distance of NaN."""
    return 1 - distance if distance == distance else 0.0
