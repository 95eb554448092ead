"""The one composition root: settings in, the parts of an imgsim out. Only here are adapters chosen."""

import os
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from dependency_injector import containers, providers

from imgsim.adapters.database import DATABASES, MIGRATIONS
from imgsim.adapters.embedding import EMBEDDERS, PACKAGED, model_folder
from imgsim.adapters.events import EVENT_RELAYS
from imgsim.adapters.fetch import UrlFetcher
from imgsim.adapters.http.app import create_app
from imgsim.adapters.http.metrics import Metrics
from imgsim.adapters.http.services import Services
from imgsim.adapters.images import ImageReader, sniff
from imgsim.adapters.jobs import JOB_QUEUES
from imgsim.adapters.lock import DataDirectoryLock
from imgsim.adapters.objects import OBJECT_STORES
from imgsim.adapters.objects.s3_buckets import S3Buckets
from imgsim.adapters.objects.s3_location import S3Location
from imgsim.adapters.objects.s3_reader import S3Reader
from imgsim.adapters.vectors import VECTOR_INDEXES
from imgsim.core.errors import SettingsError
from imgsim.core.events import EventBus
from imgsim.core.models import Picture
from imgsim.core.pictures import PictureBuffer
from imgsim.core.ports import Embedder
from imgsim.core.precedence import Precedence
from imgsim.core.services import (
    DirectUploadService,
    DuplicatesService,
    IngestService,
    LifecycleService,
    SearchService,
    ThumbnailService,
)
from imgsim.core.services.bucket_events import BucketEventService
from imgsim.fingerprints import take_fingerprint
from imgsim.imports import ImportService
from imgsim.pipeline.plugins import StageOrigin, collect_stages, load_plugins
from imgsim.pipeline.runner import Runner, RunPolicy
from imgsim.pipeline.stage import Ports, Stage
from imgsim.roles import SERVE, Role
from imgsim.settings import Settings, mask_url
from imgsim.sources import Reach
from imgsim.sources.source import HEAD_BYTES
from imgsim.thumbnails import encode_thumbnail
from imgsim.uploads import ServiceUploads

T = TypeVar("T")

# The smallest side of the pictures that stages share, whatever the model.
_SMALLEST_SIDE = 448


def by_scheme(key: str, url: str, adapters: Mapping[str, T]) -> T:
    """The adapter for the scheme of `url`; ``SettingsError`` names the schemes there are."""
    scheme = url.partition(":")[0]
    if scheme not in adapters:
        known = ", ".join(f"{name}:" for name in adapters)
        raise SettingsError(f"The setting {key} has no scheme {scheme!r} (got {mask_url(url)!r}). Valid: {known}.")
    return adapters[scheme]


def _part(part: str, adapters: Mapping[str, Callable[[Settings], T]]) -> Callable[[Settings], T]:
    def build(settings: Settings) -> T:
        return by_scheme(f"{part}.url", settings.part_url(part), adapters)(settings)

    return build


def _relay(settings: Settings, events: EventBus) -> AbstractAsyncContextManager[Any]:
    return by_scheme("jobs.url", settings.jobs.url, EVENT_RELAYS)(settings, events)


def _pictures(settings: Settings, role: Role) -> PictureBuffer:
    """Kept for the pipeline only where it runs in the same process."""
    return PictureBuffer(settings.upload.buffer_bytes if role.works else 0)


def _reader(settings: Settings, embedder: Embedder) -> ImageReader:
    smallest_side = max(_SMALLEST_SIDE, 2 * embedder.input_size)
    return ImageReader(max_pixels=settings.upload.max_pixels, min_side=smallest_side)


def _of_clients(reach: Reach, s3: Sequence[str]) -> Reach:
    """What a server reads for its clients."""
    return replace(reach, files=False, s3=s3)


def _begins_like_image(head: bytes) -> bool:
    return sniff(head) is not None


def _import_folder(settings: Settings) -> Path:
    folder = settings.imports.folder
    return Path(folder).expanduser() if folder else settings.data_dir / "imports"


def _policy(settings: Settings) -> RunPolicy:
    def of_stage(name: str, key: str) -> Any:
        own = settings.pipeline.stages.get(name)
        value = getattr(own, key) if own else None
        return getattr(settings.pipeline, key) if value is None else value

    return RunPolicy(
        lease_seconds=settings.jobs.lease_seconds,
        max_attempts=settings.jobs.max_attempts,
        backoff_seconds=settings.jobs.backoff_seconds,
        timeout_of=lambda name: float(of_stage(name, "timeout_seconds")),
        retries_of=lambda name: int(of_stage(name, "retries")),
    )


def _bucket_reader(settings: Settings, buckets: S3Buckets) -> S3Reader | None:
    """None where no notifications are taken."""
    if not settings.events_s3.sources or not settings.events_s3.secret:
        return None
    url = settings.part_url("objects")
    own = S3Location.parse(url) if url.startswith("s3:") else None
    sources = [S3Location.parse(source, "events_s3.sources") for source in settings.events_s3.sources]
    return S3Reader(buckets, sources, own, settings.upload.max_bytes)


def _bucket_events(reader: S3Reader | None, ingest: IngestService, settings: Settings) -> BucketEventService | None:
    if reader is None:
        return None
    return BucketEventService(ingest=ingest, buckets=reader, collection=settings.events_s3.collection)


def _arq_calls(settings: Settings, runner: Runner, redis: Any) -> AbstractAsyncContextManager[Any]:
    from imgsim.adapters.jobs.arq_job import Calls

    return Calls(redis, runner.process, settings.jobs.lease_seconds, settings.jobs.concurrency)


def _arq_options(settings: Settings) -> dict[str, Any]:
    from imgsim.adapters.jobs.arq_job import WORKER_OPTIONS, redis_settings

    return {**WORKER_OPTIONS, "redis_settings": redis_settings(settings.jobs.url)}


def _stages(origins: list[StageOrigin]) -> list[Stage]:
    return [origin.stage for origin in origins]


def _owner() -> str:
    """Names this process in leases; never twice, also after a restart."""
    return f"{socket.gethostname()[:20]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class Container(containers.DeclarativeContainer):
    """``Container(settings=...)``; a test overrides any part by keyword."""

    settings: providers.Dependency[Settings] = providers.Dependency(instance_of=Settings)
    role: providers.Dependency[Role] = providers.Dependency(instance_of=Role, default=SERVE)

    objects = providers.Singleton(_part("objects", OBJECT_STORES), settings)
    images = providers.Singleton(_part("database", DATABASES), settings)
    vectors = providers.Singleton(_part("vectors", VECTOR_INDEXES), settings)
    jobs = providers.Singleton(_part("jobs", JOB_QUEUES), settings)
    embedder = providers.Singleton(_part("embedder", EMBEDDERS), settings)
    lock = providers.Singleton(DataDirectoryLock, settings.provided.data_dir)

    events = providers.Singleton(EventBus)
    metrics = providers.Singleton(Metrics)
    relay = providers.Singleton(_relay, settings, events)
    pictures = providers.Singleton(_pictures, settings, role)
    reader = providers.Singleton(_reader, settings, embedder)

    fetcher = providers.Singleton(
        UrlFetcher,
        max_bytes=settings.provided.upload.max_bytes,
        timeout_seconds=settings.provided.fetch.timeout_seconds,
        max_redirects=settings.provided.fetch.max_redirects,
        allow_private=settings.provided.fetch.allow_private,
    )

    precedence = providers.Singleton(Precedence)
    ingest = providers.Singleton(
        IngestService,
        objects=objects,
        images=images,
        jobs=jobs,
        reader=reader,
        events=events,
        pictures=pictures,
        precedence=precedence,
        max_bytes=settings.provided.upload.max_bytes,
        finds_copies=settings.provided.plugins.finds_copies,
    )
    direct = providers.Singleton(
        DirectUploadService,
        ingest=ingest,
        objects=objects,
        images=images,
        reader=reader,
        max_bytes=settings.provided.upload.max_bytes,
        url_seconds=settings.provided.objects.presign_seconds,
        keep_seconds=settings.provided.upload.reservation_seconds,
    )
    search = providers.Singleton(
        SearchService,
        images=images,
        vectors=vectors,
        embedder=embedder,
        precedence=precedence,
        fingerprint=providers.Object(take_fingerprint),
    )
    duplicates = providers.Singleton(DuplicatesService, images=images)
    lifecycle = providers.Singleton(
        LifecycleService,
        objects=objects,
        images=images,
        vectors=vectors,
        jobs=jobs,
        events=events,
        pictures=pictures,
        max_attempts=settings.provided.jobs.max_attempts,
        cache_keep_seconds=settings.provided.cache.keep_seconds,
    )

    thumbnails = providers.Singleton(
        ThumbnailService,
        objects=objects,
        images=images,
        reader=reader,
        encode=providers.Object(encode_thumbnail),
        url_seconds=settings.provided.objects.presign_seconds,
    )
    import_buckets = providers.Singleton(S3Buckets)
    bucket_reader = providers.Singleton(_bucket_reader, settings, import_buckets)
    bucket_events = providers.Singleton(_bucket_events, bucket_reader, ingest, settings)
    reach = providers.Singleton(
        Reach,
        max_bytes=settings.provided.upload.max_bytes,
        begins_like_image=providers.Object(_begins_like_image),
        fetch=fetcher.provided.fetch,
        buckets=import_buckets,
    )
    client_reach = providers.Singleton(_of_clients, reach, settings.provided.imports.s3)
    imports = providers.Singleton(
        ImportService,
        uploads=providers.Factory(ServiceUploads, ingest, lifecycle, images, events).provider,
        reach=client_reach,
        folder=providers.Callable(_import_folder, settings),
        at_once=settings.provided.imports.at_once,
        concurrency=settings.provided.imports.concurrency,
        finds_copies=settings.provided.plugins.finds_copies,
    )

    plugins = providers.Singleton(load_plugins, settings.provided.plugins.disabled)
    stage_origins = providers.Singleton(collect_stages, plugins, settings)
    stages = providers.Singleton(_stages, stage_origins)
    ports = providers.Singleton(Ports, objects=objects, images=images, vectors=vectors, embedder=embedder)
    runner = providers.Singleton(
        Runner,
        stages=stages,
        ports=ports,
        reader=reader,
        events=events,
        pictures=pictures,
        precedence=precedence,
        policy=providers.Singleton(_policy, settings),
        owner=providers.Callable(_owner),
        observe=metrics.provided.observe_stage,
    )

    arq_calls = providers.Factory(_arq_calls, settings=settings, runner=runner)
    arq_options = providers.Callable(_arq_options, settings)

    services = providers.Singleton(
        Services,
        ingest=ingest.provider,
        direct=direct.provider,
        bucket_events=bucket_events.provider,
        search=search.provider,
        duplicates=duplicates.provider,
        lifecycle=lifecycle.provider,
        thumbnails=thumbnails.provider,
        images=images.provider,
        objects=objects.provider,
        vectors=vectors.provider,
        jobs=jobs.provider,
        embedder=embedder.provider,
        reader=reader.provider,
        fetcher=fetcher.provider,
        imports=imports.provider,
        events=events.provider,
        metrics=metrics.provider,
        parts=role.provided.parts,
        tells_stock=providers.Callable(lambda role: "images" in role.routes, role),
        max_upload_bytes=settings.provided.upload.max_bytes,
        max_import_bytes=settings.provided.imports.max_bytes,
        presign_seconds=settings.provided.objects.presign_seconds,
        api_keys=providers.Callable(
            lambda settings: tuple(key.get_secret_value() for key in settings.auth.keys), settings
        ),
        event_secret=settings.provided.events_s3.secret.get_secret_value.call(),
        loopback_only=providers.Callable(lambda settings: not settings.auth.allow_open, settings),
    )
    app = providers.Singleton(create_app, services, role.provided.routes)


async def migrate_database(settings: Settings) -> list[str]:
    """Bring the tables up to date; return the ids of the migrations that ran."""
    migrate = by_scheme("database.url", settings.part_url("database"), MIGRATIONS)
    if not settings.embedded("database"):
        return await migrate(settings)
    with DataDirectoryLock(settings.data_dir):
        return await migrate(settings)


def is_packaged(settings: Settings) -> bool:
    """Whether the model is the one that comes with imgsim: it computes pictures one by one, in fp32 alone."""
    return settings.embedder.model == PACKAGED


async def judge_int8(settings: Settings, pictures: Sequence[Picture]) -> tuple[bool, str]:
    """Judge int8 of the open_clip model by `pictures`; whether it passed, and what was seen.

    The verdict is kept and counts from the next start on. ``ModelError`` for too few distinct pictures, and for a
    model that int8 is not to be had of.
    """
    from imgsim.adapters.embedding.onnx_cache import ModelCache
    from imgsim.adapters.embedding.onnx_int8 import prepare_int8

    verdict = await prepare_int8(settings.embedder.model, ModelCache(model_folder(settings)), pictures)
    return verdict.passed, str(verdict)


def looks_like_image(path: Path) -> bool:
    """Whether the file begins like an image of a format that is read here. ``OSError``."""
    with path.open("rb") as file:
        return _begins_like_image(file.read(HEAD_BYTES))
