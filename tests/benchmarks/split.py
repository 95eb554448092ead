"""Split deployments beside the single process: the same photographs, the same machine, one run."""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from tests.benchmarks.floor import cores
from tests.benchmarks.ingest import WARMING, uploads, warm
from tests.benchmarks.load import send_all
from tests.benchmarks.photographs import DISTINCT, make_photographs, parse_size
from tests.benchmarks.tables import Column, Row, Table
from tests.benchmarks.watch import wait_for_done
from tests.cluster import Cluster
from tests.processes import ImgsimServer

_INSIDE: dict[str, object] = {"embedder__url": "local:"}
_COLUMNS = (
    Column("images/s", "per_second"),
    Column("of single", "of_single", ".2f"),
    Column("uploads/s", "uploads_per_second"),
    Column("ack p50", "ack_p50_ms"),
    Column("ack p99", "ack_p99_ms"),
    Column("client CPU", "client_cpu_ms", ".2f"),
)


def run(options: argparse.Namespace) -> list[Row]:
    size = options.sizes.split(",")[0]
    photographs = make_photographs(min(options.photos, DISTINCT), parse_size(size))
    table = Table(
        f"Split, {options.photos} photographs of {size}, {options.clients} clients, {cores()} cores in all (ms)",
        "layout",
        _COLUMNS,
    )
    return table.fill(_rows(options, photographs))


def _rows(options: argparse.Namespace, photographs: Sequence[bytes]) -> Iterator[Row]:
    single = 0.0
    for name, (workers, settings) in layouts([int(count) for count in options.workers.split(",")]).items():
        row = {"name": name, **measure(workers, settings, photographs, options.photos, options.clients)}
        single = single or row["per_second"]  # the first
        yield {**row, "of_single": row["per_second"] / single}


def layouts(counts: Sequence[int]) -> dict[str, tuple[int, Mapping[str, object]]]:
    """Worker processes and settings by name; no worker: the single process."""
    found: dict[str, tuple[int, Mapping[str, object]]] = {"single process": (0, {})}
    for count in counts:
        found[f"{_workers(count)} + embedder"] = (count, {})
    for count in counts:
        found[f"{_workers(count)}, model inside"] = (count, _INSIDE | ({"embedder__threads": 1} if count > 1 else {}))
    return found


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"


def measure(
    workers: int, settings: Mapping[str, object], photographs: Sequence[bytes], count: int, clients: int
) -> Row:
    with tempfile.TemporaryDirectory() as folder, _running(workers, settings, Path(folder)) as api:
        warm(api, uploads(api, photographs, "warm"))
        started = time.perf_counter()
        acks = asyncio.run(send_all(api.url, islice(uploads(api, photographs, "split"), count), clients))
        wait_for_done(api, WARMING + count, acks)
        seconds = time.perf_counter() - started
    return {
        "per_second": count / seconds,
        "uploads_per_second": count / acks.elapsed,
        **acks.percentiles("ack"),
        "client_cpu_ms": acks.cpu_seconds / count * 1e3,
        "statuses": acks.statuses,
    }


@contextmanager
def _running(workers: int, settings: Mapping[str, object], folder: Path) -> Iterator[ImgsimServer]:
    """The process that takes uploads."""
    if not workers:
        with ImgsimServer(folder / "data") as server:
            yield server
        return
    with Cluster(folder, workers, **settings) as cluster:
        yield cluster.api
