"""Split deployments beside the single process: the same photographs, the same machine, one run."""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.benchmarks.ingest import ServerWatch, cores, wait_for_done
from tests.benchmarks.load import send_all, upload_request
from tests.benchmarks.photographs import make_photographs
from tests.cluster import Cluster
from tests.processes import ImgsimServer

_ONE = {"embedder__threads": 1}
LAYOUTS: Mapping[str, tuple[int, Mapping[str, object]]] = {
    "single process": (0, {}),
    "1 worker + embedder": (1, {}),
    "2 workers + embedder": (2, {}),
    "4 workers + embedder": (4, {}),
    "1 worker, model inside": (1, {"embedder__url": "local:"}),
    "2 workers, model inside": (2, {"embedder__url": "local:", **_ONE}),
    "4 workers, model inside": (4, {"embedder__url": "local:", **_ONE}),
}


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    size = options.sizes.split(",")[0]
    width, height = (int(side) for side in size.split("x"))
    photographs = make_photographs(options.photos, (width, height))
    warming = make_photographs(20, (width, height), seed=2)
    print(f"\nSplit, {options.photos} photographs of {size}, {options.clients} clients, {cores()} cores in all")
    print(f"{'layout':<26}{'images/s':>10}{'of single':>11}{'uploads/s':>11}{'ack p50 ms':>12}{'p99':>8}")
    rows: list[dict[str, Any]] = []
    for name in LAYOUTS:
        row = {"layout": name, **measure(name, photographs, warming, options.clients)}
        rows.append(row)
        share = row["per_second"] / rows[0]["per_second"]
        print(
            f"{name:<26}{row['per_second']:>10.1f}{share:>11.2f}{row['uploads_per_second']:>11.1f}"
            f"{row['ack_p50_ms']:>12.1f}{row['ack_p99_ms']:>8.1f}",
            flush=True,
        )
    return rows


def measure(layout: str, photographs: list[bytes], warming: list[bytes], clients: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, _running(layout, Path(folder)) as api:
        host, watch = urlsplit(api.url).netloc, ServerWatch(api)
        asyncio.run(send_all(api.url, [upload_request(host, data, "warm.jpg") for data in warming], 2))
        wait_for_done(api, len(warming), watch)
        requests = [upload_request(host, data, f"{number}.jpg") for number, data in enumerate(photographs)]
        started = time.perf_counter()
        acks = asyncio.run(send_all(api.url, requests, clients))
        acknowledged = time.perf_counter() - started
        wait_for_done(api, len(warming) + len(photographs), watch)
        seconds = time.perf_counter() - started
    return {
        "per_second": len(photographs) / seconds,
        "uploads_per_second": len(photographs) / acknowledged,
        "ack_p50_ms": acks.percentile(50),
        "ack_p99_ms": acks.percentile(99),
        "statuses": acks.statuses,
    }


@contextmanager
def _running(layout: str, folder: Path) -> Iterator[ImgsimServer]:
    """The process that takes uploads."""
    workers, settings = LAYOUTS[layout]
    if not workers:
        with ImgsimServer(folder / "data") as server:
            yield server
        return
    with Cluster(folder, workers, **settings) as cluster:
        yield cluster.api
