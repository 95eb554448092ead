"""What the handlers need, as the container gives it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from litestar.di import NamedDependency

from imgsim.adapters.http.metrics import Metrics
from imgsim.core.events import EventBus
from imgsim.core.ports import Adapter, Embedder, ImageRepository, JobQueue, ObjectStore, VectorIndex
from imgsim.core.services import ImageReader, IngestService, LifecycleService, SearchService


@dataclass(frozen=True, slots=True)
class Services:
    """Callables: some parts can only be built when others are open (the reader asks the model for its size)."""

    ingest: Callable[[], IngestService]
    search: Callable[[], SearchService]
    lifecycle: Callable[[], LifecycleService]
    images: Callable[[], ImageRepository]
    objects: Callable[[], ObjectStore]
    vectors: Callable[[], VectorIndex]
    jobs: Callable[[], JobQueue]
    embedder: Callable[[], Embedder]
    reader: Callable[[], ImageReader]
    events: Callable[[], EventBus]
    metrics: Callable[[], Metrics]
    max_upload_bytes: int
    api_keys: tuple[str, ...]
    loopback_only: bool
    """Whether a server without keys answers to names of loopback only."""

    def adapters(self) -> Mapping[str, Adapter]:
        """The parts that ``/ready`` asks, by name."""
        return {
            "database": self.images(),
            "objects": self.objects(),
            "vectors": self.vectors(),
            "jobs": self.jobs(),
            "embedder": self.embedder(),
        }


Injected = NamedDependency[Services]
"""How a handler asks for the services."""
