"""A server seen from outside: its CPU, its memory, its stock."""

import json
import threading
import time
from types import TracebackType
from typing import Self

import httpx
import psutil

from tests.benchmarks.load import Timings
from tests.processes import ImgsimServer

_SECONDS_BETWEEN_SAMPLES = 0.05


class ServerWatch:
    """The server's CPU, its peak memory since the watch began, and the images it counts."""

    def __init__(self, server: ImgsimServer) -> None:
        self._process = psutil.Process(server.process.pid)
        self._client = server.client()
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self.peak_rss = 0
        """Bytes."""

    def __enter__(self) -> Self:
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._sampler.join()
        self._client.close()

    def _sample(self) -> None:
        while not self._stop.wait(_SECONDS_BETWEEN_SAMPLES):
            try:
                self.peak_rss = max(self.peak_rss, self.rss())
            except psutil.NoSuchProcess:
                return

    def rss(self) -> int:
        """Bytes, now."""
        return int(self._process.memory_info().rss)

    def cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def unfinished(self) -> int:
        """Images that are neither done nor in error."""
        states = image_states(self._client)
        return sum(states.values()) - states["done"] - states["error"]


def image_states(client: httpx.Client) -> dict[str, int]:
    figures = client.get("/metrics").raise_for_status().text
    return {
        line.split('"')[1]: int(float(line.rpartition(" ")[2]))
        for line in figures.splitlines()
        if line.startswith("imgsim_images{")
    }


def wait_for_done(server: ImgsimServer, count: int, uploads: Timings | None = None) -> None:
    """Return once `count` images are done. RuntimeError where one is in error.

    Counting a large stock costs the server time, so the last of `uploads` is asked for before, and only then all.
    """
    with server.client() as client:
        last = json.loads(uploads.last)["id"] if uploads else None
        while last and client.get(f"/images/{last}").raise_for_status().json()["state"] not in ("done", "error"):
            time.sleep(0.02)
        while (states := image_states(client))["done"] < count:
            if states["error"]:
                raise RuntimeError(f"Images ended in error: {states}")
            time.sleep(0.1)
