"""Search through HTTP beside the bare engine: the same index, the same queries."""

import argparse
import asyncio
import json
import sqlite3
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import numpy as np
import psutil
import qdrant_edge as edge

from imgsim.adapters.database.rows import row_of
from imgsim.adapters.vectors.qdrant_edge import SEARCH
from imgsim.container import Container
from imgsim.core.models import EmbeddingInfo, Image, ImageState, Point, new_image_id
from imgsim.running import opened
from imgsim.settings import load_settings
from tests.benchmarks.load import get_request, send_all
from tests.processes import ImgsimServer

_MODEL, _DIMENSIONS, _RESULTS = "efficientnet-lite0@1", 1280, 10
_COLUMNS = (
    ("points", 8),
    ("bare p50", 10),
    ("p99", 8),
    ("filtered", 10),
    ("http p50", 10),
    ("p99", 8),
    ("above p50", 11),
    ("start s", 9),
    ("RSS MB", 8),
)
_HEADER = "".join(f"{name:>{width}}" for name, width in _COLUMNS)


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    print(f"\nGET /images/ID/similar beside the engine's own query, one at a time, {_RESULTS} results (ms)\n{_HEADER}")
    rows = []
    for points in (int(text) for text in options.points.split(",")):
        row = measure(points, options.queries)
        rows.append(row)
        print(
            f"{points:>8}{row['bare_p50_ms']:>10.2f}{row['bare_p99_ms']:>8.2f}{row['filtered_p50_ms']:>10.2f}{row['http_p50_ms']:>10.2f}"
            f"{row['http_p99_ms']:>8.2f}{row['above_p50_ms']:>11.2f}{row['start_seconds']:>9.2f}{row['rss_mb']:>8.0f}",
            flush=True,
        )
    return rows


def measure(points: int, queries: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        ids = asyncio.run(_fill(data_dir, points))
        chosen = [ids[int(place)] for place in np.random.default_rng(2).integers(0, points, queries)]
        started = time.perf_counter()
        with ImgsimServer(data_dir) as server:
            start_seconds = time.perf_counter() - started
            host = urlsplit(server.url).netloc
            requests = [get_request(host, f"/images/{image_id}/similar?limit={_RESULTS}") for image_id in chosen]
            asyncio.run(send_all(server.url, requests[:20], 1))  # warm
            http = asyncio.run(send_all(server.url, requests, 1))
            rss = psutil.Process(server.process.pid).memory_info().rss
            server.terminate()
        bare = _bare(data_dir, chosen, filtered=False)
        filtered = _bare(data_dir, chosen, filtered=True)
    figures = {
        "points": points,
        "bare_p50_ms": float(np.percentile(bare, 50)) * 1e3,
        "bare_p99_ms": float(np.percentile(bare, 99)) * 1e3,
        "filtered_p50_ms": float(np.percentile(filtered, 50)) * 1e3,
        "http_p50_ms": http.percentile(50),
        "http_p99_ms": http.percentile(99),
        "start_seconds": start_seconds,
        "rss_mb": rss / 1e6,
        "statuses": http.statuses,
    }
    return figures | {"above_p50_ms": figures["http_p50_ms"] - figures["bare_p50_ms"]}


async def _fill(data_dir: Path, points: int) -> list[UUID]:
    """Rows and vectors of `points` images that are done: unit vectors in 200 loose clusters."""
    container = Container(settings=load_settings(overrides={"data_dir": data_dir}))
    chance = np.random.default_rng(1)
    centres = chance.normal(size=(200, _DIMENSIONS))
    ids = [new_image_id() for _ in range(points)]
    async with opened(container):
        for start in range(0, points, 1000):
            group = ids[start : start + 1000]
            vectors = centres[chance.integers(0, 200, len(group))] + chance.normal(size=(len(group), _DIMENSIONS))
            vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
            found = [Point(image_id, vector, "default") for image_id, vector in zip(group, vectors, strict=True)]
            await container.vectors().upsert(_MODEL, found)
    with sqlite3.connect(data_dir / "imgsim.sqlite") as database:
        rows = [row_of(_image(image_id)) | {"due_at": None} for image_id in ids]
        places = ", ".join("?" for _ in rows[0])
        values = ([_plain(value) for value in row.values()] for row in rows)
        database.executemany(f"INSERT INTO image ({', '.join(rows[0])}) VALUES ({places})", values)
    return ids


def _image(image_id: UUID) -> Image:
    now = datetime.now(UTC)
    embedding = EmbeddingInfo(_MODEL, _DIMENSIONS)
    return Image(
        image_id, "default", ImageState.DONE, None, False, image_id.hex * 2, f"{image_id}.jpg", "image/jpeg", 50_000,
        640, 480, [], {}, 1, None, embedding, {}, now, now,
    )  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    return value.isoformat(" ") if isinstance(value, datetime) else value


def _bare(data_dir: Path, chosen: list[UUID], filtered: bool) -> list[float]:
    """Seconds of each query on the engine itself, the vector known; with the filter by collection or without."""
    description = next((data_dir / "vectors").glob("*/collection.json"))
    assert json.loads(description.read_text())["model"] == _MODEL
    shard = edge.EdgeShard.load(str(description.parent / "shard"))
    in_collection = edge.FieldCondition(key="collection", match=edge.MatchValue("default"))
    where = edge.Filter(must=[in_collection]) if filtered else None
    seconds = []
    for image_id in chosen:
        vector = shard.retrieve([image_id], with_payload=False, with_vector=True)[0].vector
        request = edge.QueryRequest(limit=_RESULTS, query=edge.Query.Nearest(vector), filter=where, params=SEARCH)
        started = time.perf_counter()
        shard.query(request)
        seconds.append(time.perf_counter() - started)
    shard.close()
    return seconds
