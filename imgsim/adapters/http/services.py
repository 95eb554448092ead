"""What the handlers need, as the container gives it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from litestar.di import NamedDependency

from imgsim.adapters.fetch import UrlFetcher
from imgsim.adapters.http.metrics import Metrics
from imgsim.core.events import EventBus
from imgsim.core.ports import Adapter, Embedder, ImageRepository, JobQueue, ObjectStore, VectorIndex
from imgsim.core.services import (
    DirectUploadService,
    DuplicatesService,
    ImageReader,
    IngestService,
    LifecycleService,
    SearchService,
    ThumbnailService,
)
from imgsim.core.services.bucket_events import BucketEventService
from imgsim.imports import ImportService


@dataclass(frozen=True, slots=True)
class Services:
    """Callables: some parts can only be built when others are open (the reader asks the model for its size)."""

    ingest: Callable[[], IngestService]
    direct: Callable[[], DirectUploadService]
    bucket_events: Callable[[], BucketEventService | None]
    search: Callable[[], SearchService]
    duplicates: Callable[[], DuplicatesService]
    lifecycle: Callable[[], LifecycleService]
    thumbnails: Callable[[], ThumbnailService]
    images: Callable[[], ImageRepository]
    objects: Callable[[], ObjectStore]
    vectors: Callable[[], VectorIndex]
    jobs: Callable[[], JobQueue]
    embedder: Callable[[], Embedder]
    reader: Callable[[], ImageReader]
    fetcher: Callable[[], UrlFetcher]
    imports: Callable[[], ImportService]
    events: Callable[[], EventBus]
    metrics: Callable[[], Metrics]
    parts: Sequence[str]
    """The adapters that this process has open, by name."""
    tells_stock: bool
    """Whether ``/metrics`` tells what all processes share: images, vectors and bells. One role does."""
    max_upload_bytes: int
    max_import_bytes: int
    presign_seconds: int
    event_secret: str
    """Of bucket notifications."""
    api_keys: tuple[str, ...]
    loopback_only: bool
    """Whether a server without keys answers to names of loopback only."""

    def adapters(self) -> Mapping[str, Adapter]:
        """The parts that ``/ready`` asks, by name."""
        makers: Mapping[str, Callable[[], Adapter]] = {
            "database": self.images,
            "objects": self.objects,
            "vectors": self.vectors,
            "jobs": self.jobs,
            "embedder": self.embedder,
        }
        return {name: makers[name]() for name in self.parts}


Injected = NamedDependency[Services]
"""How a handler asks for the services."""
