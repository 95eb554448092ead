"""How long an upload takes to be acknowledged: on an idle server, and on one that others keep ingesting."""

import argparse
import asyncio
import tempfile
from itertools import islice
from pathlib import Path

from tests.benchmarks.ingest import each_model_and_size, uploads, warm
from tests.benchmarks.load import LEAD, send_all, send_under_load
from tests.benchmarks.models import Model
from tests.benchmarks.photographs import DISTINCT, make_photographs, parse_size
from tests.benchmarks.tables import Column, Row, Table
from tests.processes import ImgsimServer

_PAUSE = 0.2
"""Seconds between uploads to an idle server: the one before is done by then."""

_COLUMNS = (
    Column("idle p50", "idle_p50_ms"),
    Column("idle p99", "idle_p99_ms"),
    Column("ingesting p50", "ingesting_p50_ms"),
    Column("ingesting p99", "ingesting_p99_ms"),
    Column("others/s", "others_per_second"),
    Column("client CPU", "client_cpu_ms", ".2f"),
)


def run(options: argparse.Namespace) -> list[Row]:
    title = f"Uploads acknowledged, one at a time: idle, and while {options.clients} clients ingest (ms)"
    table = Table(title, "photographs", _COLUMNS)
    return table.fill(each_model_and_size(options, measure))


def measure(model: Model, size: str, options: argparse.Namespace) -> Row:
    count = options.queries
    photographs = make_photographs(min(count, DISTINCT), parse_size(size))
    with tempfile.TemporaryDirectory() as folder, ImgsimServer(Path(folder) / "data", model.environment) as server:
        warm(server, uploads(server, photographs, "warm"))
        idle = asyncio.run(send_all(server.url, islice(uploads(server, photographs, "idle"), count), 1, _PAUSE))
        requests = islice(uploads(server, photographs, "measured"), count)
        others = uploads(server, photographs, "others")
        busy = asyncio.run(send_under_load(server.url, requests, others, options.clients, min(options.photos, LEAD)))
    return {
        "uploads": count,
        **idle.percentiles("idle"),
        **busy.measured.percentiles("ingesting"),
        "others_per_second": busy.others_per_second,
        "client_cpu_ms": busy.cpu_ms,
        "statuses": [idle.statuses, busy.measured.statuses, busy.others.statuses],
    }
