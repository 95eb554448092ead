"""What it takes to be there: the time to start, the memory at rest, what is imported."""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from tests.benchmarks.load import get_request, send_all
from tests.benchmarks.stock import fill
from tests.benchmarks.tables import Column, Row, Table
from tests.benchmarks.watch import ServerWatch
from tests.processes import ImgsimServer

_COLUMNS = (
    Column("seconds", "seconds", ".2f"),
    Column("RSS MB", "rss_mb", ".0f"),
    Column("searched", "searched_rss_mb", ".0f"),
    Column("torch", "torch"),
)


def run(options: argparse.Namespace) -> list[Row]:
    title = (
        f"Start, until /ready says 200 or the command ends, median of {options.starts}; memory at rest, and after "
        f"{options.queries} searches"
    )
    return Table(title, "what", _COLUMNS, width=44).fill(_rows(options))


def _rows(options: argparse.Namespace) -> Iterator[Row]:
    for flag in ("--version", "--help"):
        yield {"name": f"imgsim {flag}", "seconds": _median(partial(_seconds, flag), options.starts)}
    for module in ("imgsim.cli", "imgsim.container"):
        yield {"name": f"import {module}", "seconds": _median(partial(_import_seconds, module), options.starts)}
    with tempfile.TemporaryDirectory() as folder:
        for role in ("serve", "embedder"):
            started = _start_new(role, Path(folder), options.starts)
            yield {"name": f"imgsim {role}, new data directory", **started}
        yield {"name": f"imgsim serve, {options.stock:,} images", **_start_stock(Path(folder) / "stock", options)}


def _median(measure: Callable[[], float], times: int) -> float:
    return median(measure() for _ in range(times))


def _seconds(argument: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "imgsim", argument], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _import_seconds(module: str) -> float:
    """What Python says of the import and all that it imports."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    said = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr
    (microseconds,) = re.findall(rf"\|\s*(\d+) \|\s*{re.escape(module)}$", said, re.MULTILINE)
    return int(microseconds) / 1e6


def _start_new(role: str, folder: Path, times: int) -> Row:
    found = [_start(ImgsimServer(folder / f"{role}-{number}", role=role)) for number in range(times)]
    return {**found[-1], "seconds": median(each["seconds"] for each in found)}


def _start_stock(data_dir: Path, options: argparse.Namespace) -> Row:
    chosen = fill(data_dir, options.stock)[: options.queries]
    found = [_start(ImgsimServer(data_dir)) for _ in range(options.starts)]
    with ImgsimServer(data_dir) as server:
        host = urlsplit(server.url).netloc
        requests = [get_request(host, f"/images/{image_id}/similar") for image_id in chosen]
        statuses = asyncio.run(send_all(server.url, requests, 1)).statuses
        with ServerWatch(server) as watch:
            searched = watch.rss() / 1e6
    seconds = median(each["seconds"] for each in found)
    return {**found[-1], "seconds": seconds, "searched_rss_mb": searched, "statuses": statuses}


def _start(server: ImgsimServer) -> Row:
    started = time.perf_counter()
    with server:
        with server.client() as client:
            while client.get("/ready").status_code != 200:
                time.sleep(0.01)
        seconds = time.perf_counter() - started
        with ServerWatch(server) as watch:
            rss = watch.rss() / 1e6
        torch = _has_mapped(server.process.pid, "torch")
        server.terminate()
    return {"seconds": seconds, "rss_mb": rss, "torch": torch}


def _has_mapped(pid: int, name: str) -> str:
    """Whether the process has a shared library of the package in memory: yes or no; a dash where nobody tells."""
    maps = Path(f"/proc/{pid}/maps")
    if not os.access(maps, os.R_OK):
        return "-"
    return "yes" if f"/{name}/" in maps.read_text() else "no"
