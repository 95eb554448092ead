"""Search through HTTP beside the bare engine, idle and while others ingest: the same index, the same queries."""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import numpy as np

from tests.benchmarks.ingest import WARMING, ingest, uploads, warm
from tests.benchmarks.load import LEAD, Timings, get_request, send_all, send_under_load
from tests.benchmarks.photographs import make_photographs
from tests.benchmarks.stock import fill, search_bare
from tests.benchmarks.tables import Column, Row, Table
from tests.benchmarks.watch import ServerWatch
from tests.processes import ImgsimServer

_RESULTS = 10
_SIZE = (640, 480)
"""Of the photographs that are ingested."""

_COLUMNS = (
    Column("bare p50", "bare_p50_ms", ".2f"),
    Column("bare p99", "bare_p99_ms", ".2f"),
    Column("filtered p50", "filtered_p50_ms", ".2f"),
    Column("http p50", "http_p50_ms", ".2f"),
    Column("http p99", "http_p99_ms", ".2f"),
    Column("above p50", "above_p50_ms", ".2f"),
    Column("ingesting p50", "ingesting_p50_ms", ".2f"),
    Column("ingesting p99", "ingesting_p99_ms", ".2f"),
    Column("others/s", "others_per_second"),
    Column("start s", "start_seconds", ".2f"),
    Column("RSS MB", "rss_mb", ".0f"),
    Column("client CPU", "client_cpu_ms", ".2f"),
)


def run(options: argparse.Namespace) -> list[Row]:
    title = f"GET /images/ID/similar, one at a time, {_RESULTS} results: idle, and while {options.clients} clients ingest (ms)"
    table = Table(title, "points", _COLUMNS, width=9)
    return table.fill(stocks(options))


def stocks(options: argparse.Namespace) -> Iterator[Row]:
    """The figures of each size of the index, measured once."""
    for points in options.points.split(","):
        yield measure(int(points), options.queries, max(1, options.photos // 2), options.clients)


@cache
def measure(points: int, queries: int, photos: int, clients: int) -> Row:
    # As many as are ingested, so that few are copies: they share a collection with the points, which each looks among.
    photographs = make_photographs(WARMING + photos, _SIZE)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        started = time.perf_counter()
        ids = fill(data_dir, points)
        figures: Row = {
            "name": f"{points:,}",
            "points": points,
            "fill_seconds": time.perf_counter() - started,
        }
        chosen = [ids[int(place)] for place in np.random.default_rng(2).integers(0, points, queries)]
        figures |= _search_idle(data_dir, chosen)
        for name, filtered in (("bare", False), ("filtered", True)):
            figures |= Timings(search_bare(data_dir, chosen, _RESULTS, filtered)).percentiles(name)
        figures |= _search_ingesting(data_dir, chosen, points, photographs, photos, clients)
    return figures | {"above_p50_ms": figures["http_p50_ms"] - figures["bare_p50_ms"]}


def _search_idle(data_dir: Path, chosen: Sequence[UUID]) -> Row:
    started = time.perf_counter()
    with ImgsimServer(data_dir) as server:
        start_seconds = time.perf_counter() - started
        requests = _searches(server, chosen)
        asyncio.run(send_all(server.url, requests[:20], 1))  # warm
        idle = asyncio.run(send_all(server.url, requests, 1))
        with ServerWatch(server) as watch:
            rss = watch.rss()
        server.terminate()
    return {
        "start_seconds": start_seconds,
        "rss_mb": rss / 1e6,
        **idle.percentiles("http"),
        "client_cpu_ms": idle.cpu_seconds / len(requests) * 1e3,
        "statuses": idle.statuses,
    }


def _search_ingesting(
    data_dir: Path, chosen: Sequence[UUID], points: int, photographs: Sequence[bytes], photos: int, clients: int
) -> Row:
    """First the cost of an image on a stock of this size, then the searches while others ingest."""
    with ImgsimServer(data_dir) as server, ServerWatch(server) as watch:
        new = uploads(server, photographs, "new", "default")
        warm(server, new, points)
        cost = ingest(server, watch, new, photos, clients, points + WARMING)
        others = uploads(server, photographs, "others", "default")
        searches = _searches(server, chosen)
        busy = asyncio.run(send_under_load(server.url, searches, others, clients, min(photos, LEAD)))
    return {
        "image_cpu_ms": cost["cpu_ms"],
        "images_per_second": cost["per_second"],
        **busy.measured.percentiles("ingesting"),
        "others_per_second": busy.others_per_second,
        "ingesting_statuses": [busy.measured.statuses, busy.others.statuses],
    }


def _searches(server: ImgsimServer, chosen: Sequence[UUID]) -> list[bytes]:
    host = urlsplit(server.url).netloc
    return [get_request(host, f"/images/{image_id}/similar?limit={_RESULTS}") for image_id in chosen]
