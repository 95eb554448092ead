"""Opens what a container holds, works, and closes it again."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from imgsim.container import Container
from imgsim.core.errors import Unavailable
from imgsim.core.ports import Adapter
from imgsim.roles import STORAGE, STORE
from imgsim.settings import Settings
from imgsim.sources import Reach
from imgsim.transfer import Storage

log = logging.getLogger("imgsim.running")

_SECONDS_BETWEEN_ATTEMPTS = 1.0


@asynccontextmanager
async def opened(container: Container, patient: bool = False) -> AsyncIterator[None]:
    """Every part of the container's role open; settings and plugins that cannot be used are found before.

    `patient` waits for servers that do not answer yet, otherwise they raise ``Unavailable``.
    """
    settings, role = container.settings(), container.role()
    role.check(settings)
    adapters = {part: _adapter(container, part) for part in role.parts}
    container.bucket_reader()
    if role.works:
        container.stages()
    async with AsyncExitStack() as stack:
        if any(settings.embedded(part) for part in role.parts if part in STORAGE):
            stack.enter_context(container.lock())
        for part, adapter in adapters.items():
            alone = part in STORAGE and settings.embedded(part)
            await _enter(stack, part, adapter, patient and not alone)
        await stack.enter_async_context(container.fetcher())
        await stack.enter_async_context(container.import_buckets())
        if "jobs" in role.parts:
            await _patiently("vectors", partial(_open_collection, container), patient)
            await stack.enter_async_context(container.relay())
            stack.push_async_callback(container.ingest().settle)
        if "images" in role.routes:
            stack.push_async_callback(container.imports().close)
        if "embedder" in role.parts:
            stack.push_async_callback(container.reader().close)
        yield


def _adapter(container: Container, part: str) -> Adapter:
    adapter: Adapter = getattr(container, "images" if part == "database" else part)()
    return adapter


async def _enter(stack: AsyncExitStack, part: str, adapter: Adapter, patient: bool) -> None:
    await _patiently(part, lambda: stack.enter_async_context(adapter), patient)


async def _open_collection(container: Container) -> None:
    embedder, vectors = container.embedder(), container.vectors()
    await vectors.open_collection(embedder.model_id, embedder.dimensions)
    if await vectors.live() is None:
        await vectors.set_live(embedder.model_id)


async def _patiently(part: str, attempt: Callable[[], Awaitable[Any]], patient: bool) -> None:
    """Run `attempt`; while its server is away and `patient`, again and again."""
    said = ""
    while True:
        try:
            await attempt()
        except Unavailable as error:
            if not patient:
                raise
            if error.message != said:
                said = error.message
                log.warning("waiting for the part %r: %s", part, said)
            await asyncio.sleep(_SECONDS_BETWEEN_ATTEMPTS)
        else:
            return


@asynccontextmanager
async def working(container: Container) -> AsyncIterator[None]:
    """Process images in this process until the context ends; then finish them, or hand them back."""
    settings, runner = container.settings(), container.runner()
    consume = partial(container.jobs().consume, runner.process, settings.jobs.concurrency)
    async with tending(container, consume):
        yield


@asynccontextmanager
async def tending(container: Container, consume: Callable[[], Awaitable[None]] | None = None) -> AsyncIterator[None]:
    """Keep the leases of what runs here alive, and look after what others left unfinished; beside it, `consume`.

    At the end, finish what runs, or hand it back.
    """
    settings = container.settings()
    runner, lifecycle = container.runner(), container.lifecycle()
    if settings.embedded("database"):
        await container.images().end_leases()  # the lock says that no other process works here
        await lifecycle.bury()

    async def work() -> None:
        await runner.recover()  # before anything new: what killed a process must not do so beside others
        if consume is not None:
            await consume()

    every = settings.jobs.reconcile_seconds
    loops: Mapping[str, Callable[[], Awaitable[None]]] = {
        "work": work,
        "heartbeat": runner.heartbeat,
        "recover": partial(runner.recover_forever, every),
        "reconcile": partial(lifecycle.reconcile_forever, every, runner.renew),
    }
    tasks = [asyncio.create_task(_kept_up(name, loop), name=name) for name, loop in loops.items()]
    try:
        yield
    finally:
        await runner.drain(settings.jobs.drain_seconds)
        runner.hurry()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await runner.release()


async def _kept_up(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Run `loop` until this is cancelled, anew whenever it breaks: the process would live on without it, and do
    nothing."""
    while True:
        try:
            return await loop()
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            log.error("the loop %r broke and begins again", name, exc_info=error)
        await asyncio.sleep(_SECONDS_BETWEEN_ATTEMPTS)


def end_streams(container: Container) -> None:
    """What would go on for long ends: the process stops."""
    if "images" in container.role().routes:
        container.imports().stop()
    container.events().close()


@asynccontextmanager
async def opened_reach(settings: Settings) -> AsyncIterator[Reach]:
    """What the sources of an import are read with."""
    container = Container(settings=settings)
    async with container.fetcher(), container.import_buckets():
        yield container.reach()


@asynccontextmanager
async def opened_storage(settings: Settings) -> AsyncIterator[Storage]:
    """What `settings` keep, and nothing that works on it."""
    container = Container(settings=settings, role=STORE)
    async with opened(container):
        yield Storage(container.objects(), container.images(), container.vectors())
