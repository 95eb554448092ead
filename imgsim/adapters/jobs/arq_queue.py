"""Bells that ring across processes, by Arq over Redis."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Self

from arq.connections import ArqRedis
from arq.utils import timestamp_ms
from arq.worker import Worker

from imgsim.adapters.jobs.arq_job import (
    EXPIRES_MILLISECONDS,
    QUEUE_NAME,
    WORKER_OPTIONS,
    Calls,
    deserialize,
    process_image,
    serialize,
)
from imgsim.adapters.jobs.inprocess import Handle
from imgsim.adapters.redis_pool import REDIS_ERRORS, cancel, redis_address, redis_pool, translated
from imgsim.core.errors import Unavailable
from imgsim.core.models import Bell

logger = logging.getLogger(__name__)

_RINGERS = 16
"""Bells on their way to Redis at a time, each on a connection of its own."""
_PATIENCE = 0.7
_SECONDS_OF_REST = 1.0
_WORKER_PATIENCE = 5.0
_SECONDS_BETWEEN_TRIES = 0.5
_SECONDS_TO_SETTLE = 3.0


class ArqJobQueue:
    """One Arq job for each bell. Its id is image and attempt, so that the bell of an attempt rings once.

    After a failure nothing is tried for a second, and then by one caller alone: uploads do not wait for a
    Redis that is away. `depth` counts the bells that no worker has taken.
    """

    def __init__(self, url: str, lease_seconds: float) -> None:
        self._url = url
        self._address = redis_address(url)
        self._lease_seconds = lease_seconds
        self._ringers = asyncio.Semaphore(_RINGERS)
        self._closed_until = 0.0

    async def __aenter__(self) -> Self:
        for name in ("arq.connections", "arq.jobs", "arq.worker"):
            logging.getLogger(name).setLevel(logging.WARNING)  # a line or two for each job
        self._redis = self._connect(_PATIENCE)
        try:
            await self.ping()
        except Unavailable:
            await _close(self._redis)
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await _close(self._redis)

    async def ping(self) -> None:
        with translated(self._address):
            async with asyncio.timeout(_PATIENCE):
                await self._redis.ping()

    async def depth(self) -> int:
        with translated(self._address):
            async with asyncio.timeout(_PATIENCE):
                return int(await self._redis.zcount(QUEUE_NAME, "-inf", timestamp_ms()))

    async def enqueue(self, bells: Sequence[Bell]) -> None:
        waiting = iter(bells)
        together = 1 if self._closed_until else min(_RINGERS, len(bells))
        ringers = [self._ring(waiting) for _ in range(together)]
        for outcome in await asyncio.gather(*ringers, return_exceptions=True):
            if outcome:
                raise outcome

    async def _ring(self, waiting: Iterator[Bell]) -> None:
        for bell in waiting:
            async with self._ringers:
                self._knock()
                try:
                    with translated(self._address):
                        async with asyncio.timeout(_PATIENCE):
                            await self._enqueue(bell)
                except Unavailable:
                    self._closed_until = time.monotonic() + _SECONDS_OF_REST
                    raise
                self._closed_until = 0.0

    async def _enqueue(self, bell: Bell) -> None:
        job_id = f"{bell.id}:{bell.attempts}"
        job = await self._redis.enqueue_job(process_image.__name__, str(bell.id), _job_id=job_id)
        if job is None:  # it rings already; or its place in the queue was lost, and Arq would never look for it
            await self._redis.zadd(QUEUE_NAME, {job_id: time.time_ns() // 1_000_000}, nx=True)

    def _knock(self) -> None:
        """Raise ``Unavailable`` where Redis failed just now, or where another caller is trying it again."""
        now = time.monotonic()
        if now < self._closed_until:
            raise Unavailable(f"Redis at {self._address} failed a moment ago.")
        if self._closed_until:
            self._closed_until = now + _PATIENCE + _SECONDS_OF_REST

    async def consume(self, handle: Handle, concurrency: int) -> None:
        redis = self._connect(_WORKER_PATIENCE)
        jobs: set[asyncio.Task[Any]] = set()
        try:
            async with Calls(redis, handle, self._lease_seconds, concurrency) as calls:
                await self._work_forever(redis, calls, concurrency, jobs)
        finally:
            await _settled(jobs)
            await _close(redis)

    async def _work_forever(
        self, redis: ArqRedis, calls: Calls, concurrency: int, jobs: set[asyncio.Task[Any]]
    ) -> None:
        """Run Arq's worker, and a new one whenever it lost Redis; `jobs` holds what the old ones still do."""
        away = False

        async def started(ctx: dict[Any, Any]) -> None:
            nonlocal away
            await redis.ping()  # no sooner does it answer than its data are loaded
            if away:
                logger.info("Redis at %s is back", self._address)
            away = False

        def ended(job: asyncio.Task[Any]) -> None:
            jobs.discard(job)
            if not job.cancelled() and (error := job.exception()):
                logger.debug("the outcome of a job could not be noted: %s", error)

        while True:
            worker = _Worker(
                redis_pool=redis,
                ctx={"calls": calls},
                max_jobs=concurrency,
                handle_signals=False,
                on_startup=started,
                **WORKER_OPTIONS,
            )
            main = asyncio.create_task(worker.main())
            try:
                await asyncio.wait([main])
            finally:
                await cancel(main)
                for job in worker.tasks.values():
                    jobs.add(job)
                    job.add_done_callback(ended)
            error = main.exception()
            if not isinstance(error, REDIS_ERRORS):
                logger.error("Arq's worker ended, another one follows", exc_info=error)
            elif not away:
                away = True
                logger.warning("no work is taken, Redis at %s cannot be used: %s", self._address, error)
            await asyncio.sleep(_SECONDS_BETWEEN_TRIES)

    def _connect(self, patience: float) -> ArqRedis:
        return ArqRedis(
            redis_pool(self._url, patience),
            job_serializer=serialize,
            job_deserializer=deserialize,
            default_queue_name=QUEUE_NAME,
            expires_extra_ms=EXPIRES_MILLISECONDS,
        )


class _Worker(Worker):
    """Leaves the bells to others while its calls rest."""

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        if not self.ctx["calls"].resting:
            await super().start_jobs(job_ids)


async def _settled(jobs: set[asyncio.Task[Any]]) -> None:
    """Return when Arq has noted the outcome of `jobs`, or cannot."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_SECONDS_TO_SETTLE):
            await asyncio.gather(*jobs, return_exceptions=True)


async def _close(redis: ArqRedis) -> None:
    await redis.aclose()
    await redis.connection_pool.disconnect()
