"""Ingest end to end (HTTP upload to ``done``) beside the floor, and beside another server where one is named."""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from tests.benchmarks import infinity
from tests.benchmarks.floor import best_floor, cores, run_floors, with_stages
from tests.benchmarks.load import send_all, upload_request
from tests.benchmarks.models import Model, open_models
from tests.benchmarks.photographs import DISTINCT, fresh, make_photographs, parse_size
from tests.benchmarks.tables import Column, Row, Table
from tests.benchmarks.watch import ServerWatch, wait_for_done
from tests.processes import ImgsimServer

Measure = Callable[[Model, str, argparse.Namespace], Row]
"""The figures of a model with photographs of a size."""

WARMING = 16
"""Photographs that every server takes before it is measured."""

_COLUMNS = (
    Column("photos", "photographs", "d"),
    Column("floor/s", "floor_per_second"),
    Column("imgsim/s", "per_second"),
    Column("ratio", "ratio", ".2f"),
    Column("of all work", "of_all_work", ".2f"),
    Column("floor CPU", "floor_cpu_ms"),
    Column("CPU", "cpu_ms"),
    Column("ack p50", "ack_p50_ms"),
    Column("ack p99", "ack_p99_ms"),
    Column("RSS MB", "peak_rss_mb", ".0f"),
    Column("queued", "most_queued", "d"),
    Column("client CPU", "client_cpu_ms", ".2f"),
)
_INFINITY = (Column("infinity/s", "infinity_per_second"), Column("of infinity", "of_infinity", ".2f"))


def run(options: argparse.Namespace) -> list[Row]:
    title = f"Ingest, {options.clients} clients, {cores()} cores (CPU an image and times in ms)"
    table = Table(title, "photographs", _COLUMNS + (_INFINITY if options.infinity else ()))
    return table.fill(each_model_and_size(options, measure))


def each_model_and_size(options: argparse.Namespace, measure: Measure) -> Iterator[Row]:
    for model in open_models(options.models, options.cache, options.precision):
        for size in options.sizes.split(","):
            yield {"name": f"{size}, {model.name}", **measure(model, size, options)}


def measure(model: Model, size: str, options: argparse.Namespace) -> Row:
    """imgsim between two halves of the floor, as the machine's speed drifts; `of_all_work` is its ratio to the floor
    with the other stages' work."""
    photographs = make_photographs(min(options.photos, DISTINCT), parse_size(size))
    half = max(1, options.photos // 2)
    with model.bare() as embed:
        before = run_floors(photographs, half, embed)
        figures = measure_imgsim(model, photographs, options.photos, options.clients)
        if options.infinity and model.name == infinity.ARCHITECTURE:
            figures |= infinity.measure(options.infinity, options.cache, photographs, half, options.clients)
            figures["of_infinity"] = figures["per_second"] / figures["infinity_per_second"]
        floor = best_floor([before, run_floors(photographs, half, embed)])
        all_work = best_floor([run_floors(photographs, half, with_stages(embed))])
    figures |= {"floor_per_second": floor.per_second, "floor_cpu_ms": floor.cpu_ms}
    figures |= {"all_work_per_second": all_work.per_second, "all_work_cpu_ms": all_work.cpu_ms}
    ratios = {"ratio": floor, "of_all_work": all_work}
    return figures | {name: figures["per_second"] / bare.per_second for name, bare in ratios.items()}


def measure_imgsim(model: Model, photographs: Sequence[bytes], count: int, clients: int) -> Row:
    with (
        tempfile.TemporaryDirectory() as folder,
        ImgsimServer(Path(folder) / "data", model.environment) as server,
        ServerWatch(server) as watch,
    ):
        warm(server, uploads(server, photographs, "warm"))
        return ingest(server, watch, uploads(server, photographs, "ingest"), count, clients, WARMING)


def warm(server: ImgsimServer, requests: Iterator[bytes], there: int = 0) -> None:
    """Take ``WARMING`` of the `requests`, which are uploads, beside the images that are there already."""
    acks = asyncio.run(send_all(server.url, islice(requests, WARMING), 2))
    wait_for_done(server, there + WARMING, acks)


def ingest(
    server: ImgsimServer,
    watch: ServerWatch,
    requests: Iterator[bytes],
    count: int,
    clients: int,
    there: int,
) -> Row:
    """`count` of the `requests`, which are uploads, to ``done``, on a server that has `there` images, all done."""
    started, cpu = time.perf_counter(), watch.cpu_seconds()
    acks = asyncio.run(send_all(server.url, islice(requests, count), clients))
    most_queued = watch.unfinished()
    wait_for_done(server, there + count, acks)
    return {
        "photographs": count,
        "per_second": count / (time.perf_counter() - started),
        "cpu_ms": (watch.cpu_seconds() - cpu) / count * 1e3,
        **acks.percentiles("ack"),
        "statuses": acks.statuses,
        "peak_rss_mb": watch.peak_rss / 1e6,
        "most_queued": most_queued,
        "client_cpu_ms": acks.cpu_seconds / count * 1e3,
    }


def uploads(
    server: ImgsimServer, photographs: Sequence[bytes], name: str, collection: str | None = None
) -> Iterator[bytes]:
    """Requests without end, each with new bytes. Use each `name` once for a server.

    Without a `collection` for all, each round of the photographs goes to one of its own: in one for all, every image
    would be a copy of many others, and be compared and joined with them.
    """
    host = urlsplit(server.url).netloc
    for number, photo in enumerate(fresh(photographs, name)):
        into = collection or f"{name}-{number // len(photographs)}"
        yield upload_request(host, photo, f"{name}.jpg", into)
