"""``python -m tests.benchmarks.importing``: bulk import of many small photographs, in time and memory.

Makes crops of the photographs in tests/data, as a folder and as a zip file, imports them into a new data directory by a
real ``imgsim index``, or by ``POST /imports`` into a real server, with default settings, and does it once more.
"""

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.benchmarks.photographs import make_photographs, parse_size
from tests.benchmarks.tables import Column, Row, Table
from tests.processes import ImgsimServer

_SECONDS_BETWEEN_SAMPLES = 0.1
_PORTION = 1000  # photographs that are made at a time
_STEP = 5000

COLUMNS = (
    Column("images", "images", ",.0f"),
    Column("seconds", "seconds", ",.0f"),
    Column("images/s", "per_second", ".1f"),
    Column("CPU ms", "cpu_ms", ".1f"),
    Column("peak RSS MB", "peak_rss_mb", ".0f"),
    Column("of its own, peak MB", "peak_own_mb", ".0f"),
    Column("again, seconds", "again_seconds", ".1f"),
    Column("again, RSS MB", "again_rss_mb", ".0f"),
)


def make(folder: Path, archive: Path, count: int, size: tuple[int, int]) -> None:
    """The same photographs in `folder`, a thousand in each of its own, and in `archive`."""
    with zipfile.ZipFile(archive, "w") as packed:
        for portion in range(0, count, _PORTION):
            inner = folder / f"{portion // _PORTION:03}"
            inner.mkdir(parents=True)
            for number, data in enumerate(make_photographs(min(_PORTION, count - portion), size, seed=portion + 1)):
                path = inner / f"{number:03}.jpg"
                path.write_bytes(data)
                packed.write(path, str(path.relative_to(folder)))


class MemoryWatch:
    """Memory of a process while it lives: peaks, and the mean around every 5,000th image."""

    def __init__(self, pid: int, data_dir: Path) -> None:
        self._process = psutil.Process(pid)
        self._rows = data_dir / "imgsim.sqlite"
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self.peak_rss = 0
        self.peak_own = 0
        """Bytes without those of mapped files, which the system may take back."""
        self.own_at: dict[int, int] = {}
        self.cpu_seconds = 0.0

    def __enter__(self) -> Self:
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._sampler.join()

    def _sample(self) -> None:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            samples = 0
            while not self._stop.wait(_SECONDS_BETWEEN_SAMPLES):
                memory, times = self._process.memory_info(), self._process.cpu_times()
                if not memory.rss:  # it has ended, and nobody has asked how
                    return
                own = memory.rss - memory.shared
                self.peak_rss, self.peak_own = max(self.peak_rss, memory.rss), max(self.peak_own, own)
                self.cpu_seconds = times.user + times.system
                samples += 1
                if samples % 10 == 0:
                    step = self._images() // _STEP * _STEP
                    self.own_at.setdefault(step, own)

    def _images(self) -> int:
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(f"file:{self._rows}?mode=ro", uri=True)) as rows,
        ):
            (count,) = rows.execute("SELECT count(*) FROM image").fetchone()
            return int(count)
        return 0


def by_command(source: Path, data_dir: Path) -> tuple[float, MemoryWatch, Mapping[str, Any]]:
    """Seconds, memory and report of ``imgsim index``."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "imgsim", "index", "--json", "--data-dir", str(data_dir), str(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        with MemoryWatch(process.pid, data_dir) as memory:
            assert process.stdout is not None
            report = json.loads(process.stdout.read())
        process.wait()
    return time.perf_counter() - began, memory, report


def by_server(source: Path, data_dir: Path) -> tuple[float, MemoryWatch, Mapping[str, Any]]:
    """The same by ``POST /imports``, the upload included, to a server that is started before."""
    with ImgsimServer(data_dir) as server, server.client() as client:
        began, before = time.perf_counter(), psutil.Process(server.process.pid).cpu_times()
        with MemoryWatch(server.process.pid, data_dir) as memory:
            with source.open("rb") as file:
                started = client.post("/imports", files={"file": (source.name, file)}, timeout=600).raise_for_status()
            while (report := client.get(started.headers["location"]).json())["state"] == "running":
                time.sleep(0.2)
        memory.cpu_seconds -= before.user + before.system
        return time.perf_counter() - began, memory, report


def measure(name: str, run: Callable[[Path, Path], Any], source: Path, count: int, data_dir: Path) -> Row:
    seconds, memory, report = run(source, data_dir)
    if report["indexed"] != count:
        raise RuntimeError(f"Not all was indexed: {report}")
    again_seconds, again_memory, again = run(source, data_dir)
    if again["already_there"] != count:
        raise RuntimeError(f"Not all was there: {again}")
    return {
        "name": name,
        "images": count,
        "seconds": seconds,
        "per_second": count / seconds,
        "cpu_ms": memory.cpu_seconds / count * 1e3,
        "peak_rss_mb": memory.peak_rss / 1e6,
        "peak_own_mb": memory.peak_own / 1e6,
        "own_mb_at": {str(images): own / 1e6 for images, own in memory.own_at.items()},
        "again_seconds": again_seconds,
        "again_rss_mb": again_memory.peak_rss / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.importing", description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--size", default="320x240", help="of the photographs (default 320x240)")
    parser.add_argument("--ways", default="folder,zip,http", help="comma separated (default: folder,zip,http)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        photographs, archive = work / "photographs", work / "photographs.zip"
        make(photographs, archive, options.images, parse_size(options.size))
        ways = {
            "folder": ("imgsim index FOLDER", by_command, photographs),
            "zip": ("imgsim index FILE.zip", by_command, archive),
            "http": ("POST /imports, zip", by_server, archive),
        }
        chosen = [(*ways[way], work / way) for way in options.ways.split(",")]
        title = f"Import of {options.images:,} photographs of {options.size}"
        rows = Table(title, "way", COLUMNS).fill(
            measure(name, run, source, options.images, data_dir) for name, run, source, data_dir in chosen
        )
    for row in rows:
        steps = ", ".join(f"{int(images):,}: {own:.0f}" for images, own in row["own_mb_at"].items())
        print(f"{row['name']}, MB of its own by images: {steps}")
    if options.json:
        options.json.write_text(json.dumps({"importing": rows}, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
