"""Real imgsim processes for the tests: started, asked, killed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

_SECONDS_TO_START = 60.0


class ImgsimServer:
    """``imgsim serve``, or another `role`, on a free port, with its own data directory and log file.

    `environment` holds settings as ``IMGSIM_*`` variables. Use as a context manager; a killed
    server is started again with ``start``, on another port unless `port` names one.
    """

    def __init__(
        self,
        data_dir: Path,
        environment: Mapping[str, str] | None = None,
        *arguments: str,
        role: str = "serve",
        port: int = 0,
    ) -> None:
        self.data_dir = data_dir
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("IMGSIM_")
        } | dict(environment or {})
        self._command = [role, "--port", str(port), "--data-dir", str(data_dir), *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def start(self) -> None:
        """Start, and return once it is ready. Raises RuntimeError with its log when it ends instead."""
        already_said = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "imgsim", *self._command],
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + _SECONDS_TO_START
        while time.monotonic() < deadline:
            said = self.log.read_bytes()[already_said:].decode(errors="replace")
            if found := re.search(r"is ready at (http://\S+)\s", said):
                self.url = found[1]
                return
            if self._process.poll() is not None:
                raise RuntimeError(f"imgsim ended with {self._process.returncode}:\n{said}")
            time.sleep(0.01)
        raise RuntimeError(f"imgsim was not ready after {_SECONDS_TO_START} s:\n{said}")

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def interrupt(self) -> None:
        """SIGTERM, without waiting for the end."""
        self.process.send_signal(signal.SIGTERM)

    def terminate(self, seconds: float = 30.0) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30.0, **options)  # type: ignore[arg-type]


def wait_until_at_rest(client: httpx.Client, image_id: str, seconds: float = 30.0) -> dict[str, object]:
    """The image once it is done or in error."""
    deadline = time.monotonic() + seconds
    while True:
        image: dict[str, object] = client.get(f"/images/{image_id}").raise_for_status().json()
        if image["state"] in ("done", "error"):
            return image
        assert time.monotonic() < deadline, f"still {image['state']} after {seconds} s: {image}"
        time.sleep(0.02)
