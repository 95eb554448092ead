"""The one composition root: settings in, a running imgsim out. Only here are adapters chosen."""

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from dependency_injector import containers, providers

from imgsim.adapters.database import DATABASES, MIGRATIONS
from imgsim.adapters.embedding import EMBEDDERS
from imgsim.adapters.http.app import create_app
from imgsim.adapters.http.metrics import Metrics
from imgsim.adapters.http.services import Services
from imgsim.adapters.images import ImageReader, sniff
from imgsim.adapters.jobs import JOB_QUEUES
from imgsim.adapters.lock import DataDirectoryLock
from imgsim.adapters.objects import OBJECT_STORES
from imgsim.adapters.vectors import VECTOR_INDEXES
from imgsim.core.errors import SettingsError
from imgsim.core.events import EventBus
from imgsim.core.pictures import PictureBuffer
from imgsim.core.ports import Embedder
from imgsim.core.services import IngestService, LifecycleService, SearchService
from imgsim.pipeline.plugins import StageOrigin, collect_stages, load_plugins
from imgsim.pipeline.runner import Runner, RunPolicy
from imgsim.pipeline.stage import Ports, Stage
from imgsim.settings import Settings, mask_url

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


def _part(part: str, adapters: Mapping[str, Callable[[str], T]]) -> Callable[[Settings], T]:
    def build(settings: Settings) -> T:
        url = settings.part_url(part)
        return by_scheme(f"{part}.url", url, adapters)(url)

    return build


def _from_settings(section: str, adapters: Mapping[str, Callable[[Settings], T]]) -> Callable[[Settings], T]:
    def build(settings: Settings) -> T:
        return by_scheme(f"{section}.url", getattr(settings, section).url, adapters)(settings)

    return build


def _reader(settings: Settings, embedder: Embedder) -> ImageReader:
    smallest_side = max(_SMALLEST_SIDE, 2 * embedder.input_size)
    return ImageReader(max_pixels=settings.upload.max_pixels, min_side=smallest_side)


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


def _stages(origins: list[StageOrigin]) -> list[Stage]:
    return [origin.stage for origin in origins]


def _owner() -> str:
    """Names this process in leases; never twice, also after a restart."""
    return f"{socket.gethostname()[:20]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class Container(containers.DeclarativeContainer):
    """``Container(settings=...)``; a test overrides any part by keyword."""

    settings: providers.Dependency[Settings] = providers.Dependency(instance_of=Settings)

    objects = providers.Singleton(_part("objects", OBJECT_STORES), settings)
    images = providers.Singleton(_part("database", DATABASES), settings)
    vectors = providers.Singleton(_part("vectors", VECTOR_INDEXES), settings)
    jobs = providers.Singleton(_from_settings("jobs", JOB_QUEUES), settings)
    embedder = providers.Singleton(_from_settings("embedder", EMBEDDERS), settings)
    lock = providers.Singleton(DataDirectoryLock, settings.provided.data_dir)

    events = providers.Singleton(EventBus)
    metrics = providers.Singleton(Metrics)
    pictures = providers.Singleton(PictureBuffer, settings.provided.upload.buffer_bytes)
    reader = providers.Singleton(_reader, settings, embedder)

    ingest = providers.Singleton(
        IngestService,
        objects=objects,
        images=images,
        jobs=jobs,
        reader=reader,
        events=events,
        pictures=pictures,
        max_bytes=settings.provided.upload.max_bytes,
    )
    search = providers.Singleton(SearchService, images=images, vectors=vectors, embedder=embedder)
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
        policy=providers.Singleton(_policy, settings),
        owner=providers.Callable(_owner),
        observe=metrics.provided.observe_stage,
    )

    services = providers.Singleton(
        Services,
        ingest=ingest.provider,
        search=search.provider,
        lifecycle=lifecycle.provider,
        images=images.provider,
        objects=objects.provider,
        vectors=vectors.provider,
        jobs=jobs.provider,
        embedder=embedder.provider,
        reader=reader.provider,
        events=events.provider,
        metrics=metrics.provider,
        max_upload_bytes=settings.provided.upload.max_bytes,
        api_keys=providers.Callable(
            lambda settings: tuple(key.get_secret_value() for key in settings.auth.keys), settings
        ),
        loopback_only=providers.Callable(lambda settings: not settings.auth.allow_open, settings),
    )
    app = providers.Singleton(create_app, services)


@asynccontextmanager
async def opened(container: Container) -> AsyncIterator[None]:
    """Every adapter open; settings and plugins that cannot be used are found before anything is touched."""
    adapters = [container.objects(), container.images(), container.vectors(), container.jobs(), container.embedder()]
    container.stages()
    async with AsyncExitStack() as stack:
        stack.enter_context(container.lock())
        for adapter in adapters:
            await stack.enter_async_context(adapter)
        embedder, vectors = container.embedder(), container.vectors()
        await vectors.open_collection(embedder.model_id, embedder.dimensions)
        if await vectors.live() is None:
            await vectors.set_live(embedder.model_id)
        stack.callback(container.reader().close)
        stack.push_async_callback(container.ingest().settle)
        yield


@asynccontextmanager
async def working(container: Container) -> AsyncIterator[None]:
    """Process images in this process until the context ends; then finish them, or hand them back."""
    settings = container.settings()
    runner, lifecycle = container.runner(), container.lifecycle()
    # The lock says that no other process works here: whoever held these claims is dead.
    suspects = await container.images().release(None)
    await lifecycle.bury()

    async def consume() -> None:
        await runner.process_alone(suspects)
        await container.jobs().consume(runner.process, settings.jobs.concurrency)

    reconcile = lifecycle.reconcile_forever(settings.jobs.reconcile_seconds, runner.renew)
    tasks = [asyncio.create_task(work) for work in (consume(), runner.heartbeat(), reconcile)]
    try:
        yield
    finally:
        await runner.drain(settings.jobs.drain_seconds)
        runner.hurry()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await runner.release()


async def migrate_database(settings: Settings) -> list[str]:
    """Bring the tables up to date; return the ids of the migrations that ran."""
    url = settings.part_url("database")
    migrate = by_scheme("database.url", url, MIGRATIONS)
    with DataDirectoryLock(settings.data_dir):
        return await migrate(url)


def looks_like_image(path: Path) -> bool:
    """Whether the file begins like an image of a format that is read here. ``OSError``."""
    with path.open("rb") as file:
        return sniff(file.read(64)) is not None
