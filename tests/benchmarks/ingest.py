"""Ingest end to end (HTTP upload to ``done``) beside the floor: the bare loop of decode and embed."""

import argparse
import asyncio
import os
import queue
import tempfile
import threading
import time
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import onnxruntime
import psutil
from PIL import Image

from imgsim.adapters.images import read_image
from tests.benchmarks.load import Timings, send_all, upload_request
from tests.benchmarks.photographs import make_photographs
from tests.processes import ImgsimServer

_SMALLEST_SIDE = 448
_COLUMNS = (
    ("photographs", 22),
    ("floor/s", 9),
    ("imgsim/s", 10),
    ("ratio", 7),
    ("floor CPU", 11),
    ("CPU", 7),
    ("ack p50", 9),
    ("p99", 8),
    ("idle p50", 10),
    ("p99", 8),
    ("RSS MB", 8),
    ("queued", 8),
)
_HEADER = "".join(f"{name:>{width}}" for name, width in _COLUMNS)


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    print(f"\nIngest, {options.clients} clients, model efficientnet-lite0, {cores()} cores (times in ms)\n{_HEADER}")
    rows = []
    for text in options.sizes.split(","):
        width, height = (int(side) for side in text.split("x"))
        row = measure(options.photos, (width, height), options.clients)
        rows.append(row)
        print(
            f"{row['photographs']:>6} of {text:<12}{row['floor_per_second']:>9.1f}{row['per_second']:>10.1f}"
            f"{row['ratio']:>7.2f}{row['floor_cpu_ms']:>11.1f}{row['cpu_ms']:>7.1f}{row['ack_p50_ms']:>9.1f}{row['ack_p99_ms']:>8.1f}{row['idle_ack_p50_ms']:>10.1f}"
            f"{row['idle_ack_p99_ms']:>8.1f}{row['peak_rss_mb']:>8.0f}{row['most_queued']:>8}",
            flush=True,
        )
    return rows


def measure(count: int, size: tuple[int, int], clients: int) -> dict[str, Any]:
    photographs = make_photographs(count, size)
    idle = make_photographs(50, size, seed=2)
    floor, floor_cpu = max(measure_floor(photographs, batch) for batch in (1, 4))
    with tempfile.TemporaryDirectory() as folder, ImgsimServer(Path(folder) / "data") as server:
        host = urlsplit(server.url).netloc
        asyncio.run(send_all(server.url, [upload_request(host, photo, "idle.jpg") for photo in idle[:10]], 1))  # warm
        idle_acks = asyncio.run(
            send_all(server.url, [upload_request(host, photo, "idle.jpg") for photo in idle[10:]], 1)
        )
        wait_for_done(server, len(idle))
        requests = [upload_request(host, photo, f"{number}.jpg") for number, photo in enumerate(photographs)]
        watch = ServerWatch(server)
        started, cpu = time.perf_counter(), watch.cpu_seconds()
        acks = asyncio.run(send_all(server.url, requests, clients))
        watch.note()
        wait_for_done(server, len(idle) + count, watch)
        per_second = count / (time.perf_counter() - started)
        cpu_ms = (watch.cpu_seconds() - cpu) / count * 1e3
    return {
        "size": f"{size[0]}x{size[1]}",
        "photographs": count,
        "floor_per_second": floor,
        "per_second": per_second,
        "ratio": per_second / floor,
        "floor_cpu_ms": floor_cpu,
        "cpu_ms": cpu_ms,
        **_acks("ack", acks),
        **_acks("idle_ack", idle_acks),
        "statuses": acks.statuses,
        "peak_rss_mb": watch.peak_rss / 1e6,
        "most_queued": watch.most_queued,
    }


def measure_floor(photographs: list[bytes], batch: int) -> tuple[float, float]:
    """Photographs a second, and CPU milliseconds for each, of decode + embed alone: one thread a core, nothing else."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    weights = files("imgsim.adapters.embedding") / "weights" / "efficientnet_lite0.onnx"
    session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
    todo: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
    for start in range(0, len(photographs), batch):
        todo.put(photographs[start : start + batch])

    def work() -> None:
        while True:
            try:
                group = todo.get_nowait()
            except queue.Empty:
                return
            squashed = [_squash(_decode(data)) for data in group]
            values = np.stack(squashed).astype(np.float32) / 127.5 - 1
            session.run(["y"], {"x": np.ascontiguousarray(values.transpose(0, 3, 1, 2))})

    threads = [threading.Thread(target=work) for _ in range(cores())]
    started, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count = len(photographs)
    return count / (time.perf_counter() - started), (time.process_time() - cpu) / count * 1e3


def _decode(data: bytes) -> np.ndarray[Any, Any]:
    found = read_image(data, max_pixels=10**9, min_side=_SMALLEST_SIDE)
    assert found is not None
    return found.picture


def _squash(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BICUBIC))


class ServerWatch:
    """The server's peak memory, and the longest queue seen."""

    def __init__(self, server: ImgsimServer) -> None:
        self._process = psutil.Process(server.process.pid)
        self._client = httpx.Client(base_url=server.url)
        self.peak_rss = 0
        self.most_queued = 0
        self._stop = threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while not self._stop.wait(0.05):
            try:
                self.peak_rss = max(self.peak_rss, self._process.memory_info().rss)
            except psutil.NoSuchProcess:
                return

    def cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def note(self) -> int:
        """How many are done now."""
        figures = self._client.get("/metrics").text
        states = {
            line.split('"')[1]: int(float(line.rpartition(" ")[2]))
            for line in figures.splitlines()
            if line.startswith("imgsim_images{")
        }
        self.most_queued = max(self.most_queued, sum(states.values()) - states["done"] - states["error"])
        return states["done"]


def wait_for_done(server: ImgsimServer, count: int, watch: ServerWatch | None = None) -> None:
    watch = watch or ServerWatch(server)
    while watch.note() < count:
        time.sleep(0.1)


def _acks(name: str, timings: Timings) -> dict[str, float]:
    return {f"{name}_p50_ms": timings.percentile(50), f"{name}_p99_ms": timings.percentile(99)}


def cores() -> int:
    return len(os.sched_getaffinity(0))
