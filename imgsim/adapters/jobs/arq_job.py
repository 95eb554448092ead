"""The one job of Arq's workers: call a handle for the image that rings."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Self
from uuid import UUID

import msgspec
from arq.connections import ArqRedis, RedisSettings
from arq.constants import in_progress_key_prefix
from arq.utils import timestamp_ms
from arq.worker import RetryJob
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as NoAnswer

from imgsim.adapters.jobs.inprocess import Handle
from imgsim.adapters.redis_pool import REDIS_ERRORS, cancel, redis_options
from imgsim.core.errors import Unavailable

logger = logging.getLogger(__name__)

QUEUE_NAME = "imgsim:queue"
"""A sorted set: the job ids that ring, by the time in milliseconds from which a worker may take them."""

serialize: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=str).encode
deserialize: Callable[[bytes], Any] = msgspec.json.decode

EXPIRES_MILLISECONDS = 30 * 86_400_000
"""How long a bell may ring before Arq forgets it; the reconciler would ring again."""

_LONGEST_PAUSE = 1.0


async def process_image(ctx: Mapping[str, Any], image_id: str) -> None:
    """Arq's coroutine. ``ctx["calls"]`` is the entered ``Calls`` of this worker."""
    await ctx["calls"].call(ctx["job_id"], UUID(image_id))


WORKER_OPTIONS: Mapping[str, Any] = {
    "functions": [process_image],
    "queue_name": QUEUE_NAME,
    "job_serializer": serialize,
    "job_deserializer": deserialize,
    "expires_extra_ms": EXPIRES_MILLISECONDS,
    "job_timeout": None,  # the stages have theirs; the lock of a job then lasts for 10 s at first
    "keep_result": 0,  # so that the same bell can ring again
    "max_tries": 1_000_000,  # the row counts the attempts
    "poll_delay": 0.05,
    "health_check_interval": 30,
    "log_results": False,
}
"""What every ``arq.worker.Worker`` of imgsim is made with."""


class Calls:
    """The calls of `handle` that one worker makes for its jobs.

    Arq leaves a job in the queue until it ends, under a lock that nobody renews. Here the lock lasts for
    `lease_seconds` and is renewed; the place in the queue moves as far into the future, so that no other worker
    looks at the job meanwhile, and the job of a worker that was killed rings again after that time. A call that
    raises ``Unavailable`` gives its job back at once, and `resting` says that no other should be taken for now.
    """

    def __init__(self, redis: ArqRedis, handle: Handle, lease_seconds: float, concurrency: int) -> None:
        self._redis = redis
        self._handle = handle
        self._lease_seconds = lease_seconds
        self._slots = asyncio.Semaphore(concurrency)
        self._running: dict[asyncio.Task[Any], str] = {}
        self._renewing = asyncio.Lock()
        self._stopping = False
        self._rests_until = 0.0

    async def __aenter__(self) -> Self:
        self._renewal = asyncio.create_task(self._renew_forever())
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Cancel the calls and wait for them; their bells ring for others at once."""
        self._stopping = True
        running = list(self._running)
        for call in running:
            call.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await cancel(self._renewal)

    async def call(self, job_id: str, image_id: UUID) -> None:
        if self._stopping:
            raise asyncio.CancelledError
        if self.resting:
            # Arq's own worker takes bells all the same. They ring for others at once, but it is not free for more.
            await self._move([job_id], 0)
            await asyncio.sleep(min(self._rests_until - time.monotonic(), _LONGEST_PAUSE))
            raise RetryJob
        task = asyncio.current_task()
        assert task is not None
        self._running[task] = job_id
        taken = asyncio.create_task(self._move([job_id], self._lease_seconds))
        try:
            async with self._slots:
                await self._handle([image_id])
        except asyncio.CancelledError:
            await taken
            await self._give_back(task)
            raise
        except Unavailable as error:
            self._rests_until = time.monotonic() + error.retry_after
            await taken
            await self._give_back(task)
            raise RetryJob from error
        except Exception:
            logger.exception("the job of image %s failed", image_id)
        finally:
            await taken
            self._running.pop(task, None)

    async def _give_back(self, task: asyncio.Task[Any]) -> None:
        """Its bell rings for others at once; a renewal that is under way comes before, and no other after."""
        job_id = self._running.pop(task)
        async with self._renewing:
            await self._move([job_id], 0)

    @property
    def resting(self) -> bool:
        return time.monotonic() < self._rests_until

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            async with self._renewing:
                if self._running:
                    await self._move(set(self._running.values()), self._lease_seconds)

    async def _move(self, job_ids: Iterable[str], seconds: float) -> None:
        """Lock these jobs, and let them ring again, for and after so many seconds.

        Without Redis nothing need be done: the row's lease protects the image, not this.
        """
        milliseconds = int(seconds * 1000)
        due = timestamp_ms() + milliseconds
        with suppress(*REDIS_ERRORS):
            async with self._redis.pipeline(transaction=False) as pipe:
                for job_id in job_ids:
                    pipe.pexpire(in_progress_key_prefix + job_id, milliseconds)
                    pipe.zadd(QUEUE_NAME, {job_id: due}, xx=True)
                await pipe.execute()


def redis_settings(url: str) -> RedisSettings:
    """For Arq's own command line, whose worker would end when Redis is lost but for the retries."""
    options = redis_options(url)
    return RedisSettings(
        host=options["host"],
        port=options["port"],
        database=options["db"],
        username=options.get("username"),
        password=options.get("password"),
        ssl=options.get("connection_class") is SSLConnection,
        ssl_keyfile=options.get("ssl_keyfile"),
        ssl_certfile=options.get("ssl_certfile"),
        ssl_cert_reqs=options.get("ssl_cert_reqs", "required"),
        ssl_ca_certs=options.get("ssl_ca_certs"),
        ssl_check_hostname=options.get("ssl_check_hostname", False),
        conn_retries=60,
        retry=Retry(ExponentialBackoff(cap=1, base=0.05), -1),
        retry_on_error=[ConnectionLost, NoAnswer],
    )
