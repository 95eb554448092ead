"""Quantizes what was written while the index is in use, in a child process, and has the result take over."""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from imgsim.adapters.vectors.edge_collection import Collection
from imgsim.adapters.vectors.edge_files import copy_tree, read_ahead
from imgsim.core.errors import ImgsimError, Unavailable

log = logging.getLogger("imgsim.vectors")

T = TypeVar("T")

WATCH_SECONDS = 5.0
"""How often is looked whether there is enough to do."""

RETRY_SECONDS = 600.0
"""How long nothing is tried after a failure."""

REPLAY_POINTS = 64
"""Touched points that one call brings over, in 5 ms."""


class EdgeOptimizer:
    """Keeps the quantized share of the shards high, one shard at a time.

    `call` runs a function in the engine's thread. A shard is copied while writes wait and searches go on; a child
    optimizes the copy while everything goes on; then what was written meanwhile is brought over, and
    ``collection.json`` names the copy. Until then nothing has happened to the shard, whatever fails.
    """

    def __init__(self, collections: dict[str, Collection], call: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        self._collections = collections
        self._call = call
        self._writable = asyncio.Event()
        self._writable.set()
        self._not_before = 0.0

    async def writable(self) -> None:
        """Return when writes may be submitted, in this turn of the event loop."""
        while not self._writable.is_set():
            await self._writable.wait()

    async def run(self) -> None:
        """Look after the shards until cancelled."""
        while True:
            for collection in list(self._collections.values()):
                if time.monotonic() >= self._not_before:
                    await self._attempt(collection)
            await asyncio.sleep(WATCH_SECONDS)

    async def _attempt(self, collection: Collection) -> None:
        try:
            if await self._call(collection.wants_optimizing):
                try:
                    await self._optimize(collection)
                finally:
                    await self._call(collection.abandon)
                    await _in_thread(lambda _: collection.remove_leftovers())
        except (OSError, ImgsimError) as error:
            log.warning("%s is not optimized, and searched more slowly: %s", collection.model, error)
            self._not_before = time.monotonic() + RETRY_SECONDS
        except Exception:  # it must not end the task, whatever it is
            log.exception("%s is not optimized, and searched more slowly.", collection.model)
            self._not_before = time.monotonic() + RETRY_SECONDS

    async def _optimize(self, collection: Collection) -> None:
        start, points = time.perf_counter(), await self._call(lambda: collection.unoptimized)
        log.info("Optimizing %d points of %s.", points, collection.model)
        await _in_thread(lambda _: collection.check_space_to_optimize())
        async with self._writes_held():
            path = await self._call(collection.prepare_copy)
            await _in_thread(partial(copy_tree, collection.path, path))
        await _run_child(path)
        await _in_thread(partial(read_ahead, path))
        await self._call(partial(collection.load_successor, path))
        await self._replay(collection, len(collection.touched or ()))
        async with self._writes_held():
            await self._replay(collection)
            await self._call(partial(collection.switch, path))
        log.info("Optimized %d points of %s in %.1f s.", points, collection.model, time.perf_counter() - start)

    async def _replay(self, collection: Collection, most: float = float("inf")) -> None:
        """Bring `most` touched points over, or all of them: writes that go on may touch as many again."""
        left = 1
        while left and most > 0:
            left = await self._call(partial(collection.replay, REPLAY_POINTS))
            most -= REPLAY_POINTS

    @asynccontextmanager
    async def _writes_held(self) -> AsyncIterator[None]:
        """Let no write be submitted; those that were run before what is submitted here."""
        self._writable.clear()
        try:
            yield
        finally:
            self._writable.set()


async def _run_child(path: Path) -> None:
    """Optimize the shard in `path` in another process. ``Unavailable`` with its last words where it fails."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "imgsim.adapters.vectors.edge_optimize", str(path)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process to hear
    )
    try:
        _, words = await child.communicate()
    except asyncio.CancelledError:
        child.kill()
        await child.wait()
        raise
    if child.returncode:
        last = words.decode(errors="replace").strip().splitlines()[-1:]
        raise Unavailable(f"The process that does it ended with {child.returncode}. {' '.join(last)}".rstrip())


async def _in_thread(function: Callable[[Event], T]) -> T:
    """Run `function` in a thread; when cancelled, set the event that it is given, and wait for its end."""
    stop = Event()
    running = asyncio.ensure_future(asyncio.to_thread(function, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.gather(running, return_exceptions=True)  # who waited for an error has gone
        raise
