"""``python -m tests.benchmarks.sizing``: what 1 million, 100 million and 10 billion images need, from measured constants.

Prints the table of the README's chapter "Sizing". ``--measure`` first measures the constants anew, on real servers of
its own, and prints them beside those used here; change them below when they have moved.
"""

import argparse
import asyncio
import hashlib
import math
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import numpy as np
import psutil
import redis

from imgsim.adapters.database.rows import row_of
from imgsim.adapters.jobs import JOB_QUEUES
from imgsim.container import migrate_database
from imgsim.core.models import Bell, EmbeddingInfo, Image, ImageState, new_image_id
from imgsim.settings import load_settings
from tests.benchmarks.load import send_all, upload_request
from tests.benchmarks.photographs import make_photographs
from tests.benchmarks.watch import wait_for_done
from tests.cluster import Cluster
from tests.servers import PostgreSQL, Valkey

STOCKS = (1_000_000, 100_000_000, 10_000_000_000)
DAYS = 30
"""In which the whole stock is taken in."""
BUSY = 0.7
"""Of the time, at most: the rest is for peaks."""
CELL = 100_000_000
"""Images of one deployment; more are deployments beside each other, each with collections of its own."""

OBJECT_BYTES = 2_000_000  # a 12-megapixel JPEG of a telephone

# PostgreSQL, bytes a row with its part of all indexes (--measure, 20,000 rows); 2 tags an image.
IMAGE_ROW_BYTES = 1_050
EMBEDDING_ROW_BYTES: Mapping[int, int] = {1280: 6_250, 512: 3_100}
DEAD_ROWS = 1.3  # each image's row is written about six times; vacuum comes after

# Qdrant, bytes a point. Vectors and payload: seen on disk with Qdrant Edge, which has the server's format, 100,000
# points with 2 tags: 5.01 bytes a dimension (float32 and int8), payload 144, its indexes 80, ids and versions 29.
PAYLOAD_BYTES = 144
INDEX_BYTES = 80 + 29
GRAPH_BYTES = 2 * (16 + 16) * 4  # m and payload_m of 16: twice as many links on the lowest level, 4 bytes each
SPARE = {"RAM": 1.25, "disk": 1.5}  # segments are written anew while the old ones serve; the write-ahead log
REPLICAS = 2
SHARD_RAM_BYTES = 16e9  # moved to another node in minutes
NODE_RAM_BYTES = 96e9  # three quarters of 128 GB

# CPU milliseconds an image of 4000x3000 (--measure, 200 of them through api, worker and embedder); AMD EPYC (AVX2).
API_MS = 22.0
WORKER_MS = 30.0
EMBEDDER_MS: Mapping[str, float] = {
    "efficientnet-lite0": 14.0,
    "ViT-B-32": 1000 / 6,  # 12 images a second on two cores, in float32
}

SECONDS_IN_THE_PIPELINE = 1.0
REDIS_BELL_BYTES = 355  # (--measure)
OUTAGE_SECONDS = 3600

MODEL = "efficientnet-lite0@1"
TAGS = ("beach", "summer 2026")


def column(images: int) -> dict[str, str]:
    """What `images` need in all, by name."""
    cells = math.ceil(images / CELL)
    return {
        "deployments (cells)": f"{cells:,}",
        "objects": size(images * OBJECT_BYTES),
        **rows(images),
        **vectors(images, cells, 1280),
        **vectors(images, cells, 512),
        **pipeline(images),
    }


def rows(images: int) -> dict[str, str]:
    """PostgreSQL."""
    caches = {each: images * EMBEDDING_ROW_BYTES[each] for each in (1280, 512)}
    return {
        "PostgreSQL: rows": f"{figure(images * (2 + len(TAGS)) / 1e6)} million",
        "PostgreSQL: images and tags": size(images * IMAGE_ROW_BYTES * DEAD_ROWS),
        **{f"PostgreSQL: embedding cache, {each}-d": size(amount) for each, amount in caches.items()},
    }


def vectors(images: int, cells: int, dimensions: int) -> dict[str, str]:
    """Qdrant: int8 in memory, float32 on disk."""
    ram = images / cells * (dimensions + GRAPH_BYTES + INDEX_BYTES) * SPARE["RAM"]
    disk = images / cells * (5 * dimensions + GRAPH_BYTES + PAYLOAD_BYTES + INDEX_BYTES) * SPARE["disk"]
    shards = math.ceil(ram / SHARD_RAM_BYTES)
    nodes = max(REPLICAS, math.ceil(ram * REPLICAS / NODE_RAM_BYTES))
    copies = cells * REPLICAS
    return {
        f"Qdrant, {dimensions}-d: shards of a cell": f"{shards:,}",
        f"Qdrant, {dimensions}-d: RAM, disk of a shard": f"{size(ram / shards)}, {size(disk / shards)}",
        f"Qdrant, {dimensions}-d: RAM, disk in all": f"{size(ram * copies)}, {size(disk * copies)}",
        f"Qdrant, {dimensions}-d: nodes of 128 GB": f"{nodes * cells:,}",
    }


def pipeline(images: int) -> dict[str, str]:
    """Processes, and what waits between them."""
    rate = images / DAYS / 86_400
    cores = {"API": API_MS, "worker": WORKER_MS} | {f"embedder ({model})": ms for model, ms in EMBEDDER_MS.items()}
    waiting = rate * OUTAGE_SECONDS
    return {
        f"images a second, all in {DAYS} days": figure(rate),
        **{f"{name} cores": count(rate * ms / 1000 / BUSY) for name, ms in cores.items()},
        "core-hours to embed all": ", ".join(figure(images * ms / 3.6e6) for ms in EMBEDDER_MS.values()),
        "images under way": count(rate * SECONDS_IN_THE_PIPELINE),
        "waiting after an hour without workers": f"{count(waiting)}, {size(waiting * REDIS_BELL_BYTES)} in Redis",
    }


def table() -> str:
    columns = [column(images) for images in STOCKS]
    lines = ["| | 1 million | 100 million | 10 billion |", "|---|---|---|---|"]
    lines += [f"| {name} | {' | '.join(each[name] for each in columns)} |" for name in columns[0]]
    return "\n".join(lines)


def size(amount: float) -> str:
    """Decimal units, two digits: ``1.6 TB``."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if amount < 999.5:
            return f"{figure(amount)} {unit}"
        amount /= 1000
    return f"{figure(amount)} PB"


def figure(value: float) -> str:
    """Two significant digits."""
    if value >= 10:
        digits = 1 - math.floor(math.log10(value))
        return f"{round(value, digits):,.0f}"
    return f"{value:.2g}"


def count(value: float) -> str:
    """Whole things: two significant digits, at least 1."""
    return figure(max(1, math.ceil(value)))


def measure() -> dict[str, float]:
    """The constants above, on this machine."""
    with PostgreSQL() as postgresql:
        rows = _measure_rows(postgresql, 20_000)
    with Valkey() as valkey:
        bells = asyncio.run(_measure_bells(valkey, 20_000))
    return rows | {"REDIS_BELL_BYTES": bells} | _measure_cpu(200, (4000, 3000))


def _measure_rows(server: PostgreSQL, images: int) -> dict[str, float]:
    """Bytes a row of each table, its indexes and its TOAST table included."""
    url = server.new_database()
    asyncio.run(migrate_database(load_settings(overrides={"database": {"url": url}})))
    ids = [new_image_id() for _ in range(images)]
    asyncio.run(_fill(url, "image", (_done_row(image_id) for image_id in ids)))
    asyncio.run(_fill(url, "image_tag", ({"image": each, "tag": tag} for each in ids for tag in TAGS)))
    found = {"IMAGE_ROW_BYTES": (_bytes(server, url, "image") + _bytes(server, url, "image_tag")) / images}
    for dimensions in EMBEDDING_ROW_BYTES:
        server.execute("TRUNCATE cached_embedding", url)
        asyncio.run(_fill(url, "cached_embedding", _embedding_rows(ids, dimensions)))
        found[f"EMBEDDING_ROW_BYTES[{dimensions}]"] = _bytes(server, url, "cached_embedding") / images
    return found


async def _fill(url: str, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    connection = await asyncpg.connect(url)
    try:
        rows = list(rows)
        places = ", ".join(f"${number}" for number in range(1, len(rows[0]) + 1))
        statement = f"INSERT INTO {table} ({', '.join(rows[0])}) VALUES ({places})"
        await connection.executemany(statement, [list(row.values()) for row in rows])
    finally:
        await connection.close()


def _done_row(image_id: UUID) -> dict[str, Any]:
    now = datetime.now(UTC)
    image = Image(
        image_id, "holidays", ImageState.DONE, None, False, _sha256(image_id), "IMG_20261123_101112.jpg", "image/jpeg",
        OBJECT_BYTES, 4000, 3000, TAGS, {"album": 7}, 1, None, EmbeddingInfo(MODEL, 1280), {}, now, now,
    )  # fmt: skip
    return row_of(image) | {"due_at": None}


def _sha256(image_id: UUID) -> str:
    return hashlib.sha256(image_id.bytes).hexdigest()


def _embedding_rows(ids: Iterable[UUID], dimensions: int) -> Iterable[dict[str, Any]]:
    chance = np.random.default_rng(1)
    for image_id in ids:
        vector = chance.normal(size=dimensions).astype("<f4").tobytes()
        key = {"sha256": _sha256(image_id), "model": MODEL, "preprocessing": "1"}
        yield {**key, "vector": vector, "orphaned_at": None}


def _bytes(server: PostgreSQL, url: str, table: str) -> int:
    server.execute(f"VACUUM {table}", url)
    (row,) = server.execute(f"SELECT pg_total_relation_size('{table}') AS bytes", url)
    return int(row["bytes"])


async def _measure_bells(server: Valkey, bells: int) -> float:
    """Bytes of memory that a waiting bell takes."""
    settings = load_settings(overrides={"jobs": {"url": server.url}})
    with redis.Redis.from_url(server.url) as client:
        before = client.info("memory")["used_memory"]
        async with JOB_QUEUES["redis"](settings) as queue:
            await queue.enqueue([Bell(new_image_id(), 0) for _ in range(bells)])
        return float(client.info("memory")["used_memory"] - before) / bells


def _measure_cpu(photos: int, dimensions: tuple[int, int]) -> dict[str, float]:
    """CPU milliseconds an image of each role, from the upload to ``done``."""
    photographs = make_photographs(photos + 20, dimensions)
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder), workers=1) as cluster:
        host = urlsplit(cluster.api.url).netloc
        requests = [upload_request(host, photo, f"{number}.jpg") for number, photo in enumerate(photographs)]
        processes = {"API_MS": cluster.api, "WORKER_MS": cluster.workers[0], "EMBEDDER_MS": cluster.embedder}

        def seconds() -> dict[str, float]:
            times = {name: psutil.Process(server.process.pid).cpu_times() for name, server in processes.items()}
            return {name: used.user + used.system for name, used in times.items()}

        def work(chosen: list[bytes], done: int) -> None:
            asyncio.run(send_all(cluster.api.url, chosen, 4))
            wait_for_done(cluster.api, done)

        work(requests[:20], 20)
        before = seconds()
        work(requests[20:], len(requests))
        return {name: (after - before[name]) / photos * 1e3 for name, after in seconds().items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sizing", description=__doc__)
    parser.add_argument("--measure", action="store_true", help="measure the constants anew (about a minute)")
    if parser.parse_args().measure:
        for name, value in measure().items():
            print(f"{name:<28}{value:>12,.1f}")
        print()
    print(table())


if __name__ == "__main__":
    main()
