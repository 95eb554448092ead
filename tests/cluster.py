"""A whole split deployment on this machine: real servers, and imgsim's roles as processes."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.processes import ImgsimServer
from tests.servers import PostgreSQL, SeaweedFS, Valkey, free_port


class Cluster:
    """Valkey, PostgreSQL (rows and vectors), SeaweedFS, one embedder, one API and some workers.

    `settings` are those of all roles, as ``jobs__lease_seconds=1``; `environment` is theirs besides. Every process
    keeps its address over a restart.
    """

    def __init__(
        self, folder: Path, workers: int = 2, environment: Mapping[str, str] | None = None, **settings: object
    ) -> None:
        self._folder = folder
        self._running = ExitStack()
        self._count = workers
        self._given = {f"IMGSIM_{key.upper()}": str(value) for key, value in settings.items()} | dict(environment or {})

    def __enter__(self) -> Self:
        with ExitStack() as running:
            self.valkey = running.enter_context(Valkey())
            self.postgresql = running.enter_context(PostgreSQL())
            self.seaweedfs = running.enter_context(SeaweedFS())
            port = free_port()
            self.environment: Mapping[str, str] = {
                "IMGSIM_OBJECTS__URL": self.seaweedfs.url,
                "IMGSIM_DATABASE__URL": self.postgresql.url,
                "IMGSIM_VECTORS__URL": self.postgresql.url,
                "IMGSIM_JOBS__URL": self.valkey.url,
                "IMGSIM_EMBEDDER__URL": f"http://127.0.0.1:{port}",
                **self.seaweedfs.environment,
                **self._given,
            }
            local = {"IMGSIM_EMBEDDER__URL": self._given.get("IMGSIM_EMBEDDER__URL", "local:")}
            self.embedder = ImgsimServer(
                self._folder / "embedder", {**self.environment, **local}, role="embedder", port=port
            )
            self.api = self._role("api", "api")
            self.workers = [self._role("worker", f"worker-{number}") for number in range(1, self._count + 1)]
            for process in (self.embedder, self.api, *self.workers):
                running.enter_context(process)
            self._running = running.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._running.close()

    def _role(self, role: str, name: str) -> ImgsimServer:
        return ImgsimServer(self._folder / name, self.environment, role=role, port=free_port())

    def add_worker(self) -> ImgsimServer:
        """One more worker, which runs."""
        worker = self._running.enter_context(self._role("worker", f"worker-{len(self.workers) + 1}"))
        self.workers.append(worker)
        return worker

    def logs(self) -> str:
        """What all of imgsim's processes said."""
        return "".join(f"== {log.stem}\n{log.read_text()}" for log in sorted(self._folder.glob("*.log")))
