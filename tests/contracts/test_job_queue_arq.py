"""What the queue over Redis promises beyond every queue's promises, above all when something dies."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from arq.worker import create_worker

from imgsim.adapters.jobs.arq_job import QUEUE_NAME, WORKER_OPTIONS, Calls, redis_settings
from imgsim.adapters.jobs.arq_queue import ArqJobQueue
from imgsim.adapters.jobs.inprocess import Handle
from imgsim.core.errors import SettingsError, Unavailable
from imgsim.core.models import Bell
from tests.contracts.test_job_queue import Handler, consuming, empty_database, ids_of, new_bells, until, until_depth
from tests.servers import Valkey, free_port
from tests.unit.test_runner import Bench

LEASE_SECONDS = 1.0


@pytest.fixture
def url(valkey: Valkey) -> str:
    return empty_database(valkey)


@pytest.fixture
async def queue(url: str) -> AsyncIterator[ArqJobQueue]:
    async with ArqJobQueue(url, LEASE_SECONDS) as queue:
        yield queue


@pytest.fixture
def client(url: str) -> Iterator["redis.Redis[bytes]"]:
    with redis.Redis.from_url(url) as client:
        yield client


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    with Valkey() as running:
        yield running


def open_handler() -> Handler:
    handler = Handler()
    handler.open.set()
    return handler


def signal_to(server: Valkey, number: signal.Signals) -> None:
    assert server._process
    os.kill(server._process.pid, number)


async def enqueue_patiently(queue: ArqJobQueue, bells: Sequence[Bell]) -> None:
    """As the reconciler does."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await queue.enqueue(bells)
            except Unavailable:
                await asyncio.sleep(0.1)


# in Redis


async def test_only_ids_as_json_lie_in_redis(queue: ArqJobQueue, client: "redis.Redis[bytes]") -> None:
    bell = Bell(uuid4(), 3)
    await queue.enqueue([bell])
    key = f"arq:job:{bell.id}:3"
    assert set(client.keys()) == {key.encode(), QUEUE_NAME.encode()}
    job = json.loads(client.get(key) or b"")
    assert (job["f"], job["a"], job["k"]) == ("process_image", [str(bell.id)], {})
    assert client.ttl(key) > 7 * 86_400, "a bell that rings for long must not expire"


async def test_nothing_remains_of_an_answered_bell(queue: ArqJobQueue, client: "redis.Redis[bytes]") -> None:
    async def fail(image_ids: Sequence[UUID]) -> None:
        raise ValueError("a broken job")

    for handle in (open_handler(), fail):
        await queue.enqueue(new_bells(5))
        async with consuming(queue, handle):
            await until(lambda: not client.zcard(QUEUE_NAME))
    assert client.keys("arq:*") == []


@pytest.mark.alone
async def test_thousands_of_bells_are_rung_and_answered_in_seconds(queue: ArqJobQueue) -> None:
    bells = new_bells(2000)
    began = time.monotonic()
    await queue.enqueue(bells)
    assert time.monotonic() - began < 4
    handler = open_handler()
    async with consuming(queue, handler, 16):
        await until(lambda: len(handler.image_ids) == 2000)
    assert set(handler.image_ids) == set(ids_of(bells))
    assert time.monotonic() - began < 9


@pytest.mark.alone
async def test_a_bell_is_answered_at_once(queue: ArqJobQueue) -> None:
    waits = []
    handler = open_handler()
    async with consuming(queue, handler):
        for number, bell in enumerate(new_bells(15)):
            began = time.monotonic()
            await queue.enqueue([bell])
            await until(lambda number=number: len(handler.calls) > number)  # type: ignore[misc]
            waits.append(time.monotonic() - began)
    assert sorted(waits)[7] < 0.1


async def test_a_job_longer_than_its_lease_is_not_rung_elsewhere(
    queue: ArqJobQueue, client: "redis.Redis[bytes]"
) -> None:
    handlers = [Handler(), Handler()]
    await queue.enqueue(new_bells(2))
    async with consuming(queue, handlers[0]), consuming(queue, handlers[1]):
        await until(lambda: sum(handler.running for handler in handlers) == 2)
        await asyncio.sleep(2 * LEASE_SECONDS)
        assert sum(len(handler.calls) for handler in handlers) == 2
        await until_depth(queue, 0)
        for key in client.keys("arq:in-progress:*"):
            assert 0 < client.pttl(key) <= LEASE_SECONDS * 1000
        for handler in handlers:
            handler.open.set()
        await until(lambda: not client.keys("arq:job:*"))


async def test_many_running_jobs_do_not_hide_the_bells_behind_them(queue: ArqJobQueue) -> None:
    busy, free = Handler(), open_handler()
    await queue.enqueue(new_bells(250))
    async with consuming(queue, busy, 250):
        await until(lambda: busy.running == 250)
        async with consuming(queue, free, 1):
            await queue.enqueue(last := new_bells(1))
            await until(lambda: free.image_ids == ids_of(last), seconds=2)


# those who hold back, stop or die


class Unable:
    """Holds every call for some time, and then takes on nothing."""

    def __init__(self, seconds: float, retry_after: float) -> None:
        self._seconds, self._retry_after = seconds, retry_after
        self.calls = 0

    async def __call__(self, image_ids: Sequence[UUID]) -> None:
        self.calls += 1
        await asyncio.sleep(self._seconds)
        raise Unavailable("Nothing is taken now.", retry_after=self._retry_after)


async def test_a_consumer_that_holds_back_gives_its_bells_to_others(
    queue: ArqJobQueue, client: "redis.Redis[bytes]"
) -> None:
    unable, other = Unable(0.3, retry_after=0.3), open_handler()
    bells = new_bells(4)
    await queue.enqueue(bells)
    async with consuming(queue, unable):
        await until(lambda: unable.calls >= 4)
        async with consuming(queue, other):
            await until(lambda: set(other.image_ids) == set(ids_of(bells)), seconds=3)
            await until(lambda: client.keys("arq:*") == [])
    assert len(other.image_ids) == 4


async def test_a_consumer_that_holds_back_takes_nothing_for_as_long_as_it_says(queue: ArqJobQueue) -> None:
    unable = Unable(0, retry_after=3600)
    await queue.enqueue(new_bells(3))
    async with consuming(queue, unable, 1):
        await until(lambda: unable.calls == 1)
        await until_depth(queue, 3)
        await asyncio.sleep(0.5)  # ten looks
    assert unable.calls == 1


@pytest.mark.parametrize("why", ["a part is away", "it stops"])
async def test_a_runner_that_takes_nothing_leaves_its_bells_to_others(queue: ArqJobQueue, why: str) -> None:
    runner, other = Bench().runner(), open_handler()
    bells = new_bells(4)
    with runner._gate.shut():
        if why == "it stops":
            await runner.drain(0)
        await queue.enqueue(bells)
        async with consuming(queue, runner.process):
            await until_depth(queue, 0 if why == "a part is away" else 4)
            async with consuming(queue, other):
                await until(lambda: set(other.image_ids) == set(ids_of(bells)), seconds=5)
    assert len(other.image_ids) == 4


async def test_a_consumer_that_is_stopped_while_it_holds_back_leaves_no_bell_behind(queue: ArqJobQueue) -> None:
    unable, other = Unable(0.05, retry_after=0.05), open_handler()
    bells = new_bells(6)
    await queue.enqueue(bells)
    async with consuming(queue, unable):
        await until(lambda: unable.calls > 10)
    async with consuming(queue, other):
        await until(lambda: set(other.image_ids) == set(ids_of(bells)), seconds=LEASE_SECONDS / 2)


async def test_a_consumer_that_is_cancelled_hands_its_bells_to_others_at_once(
    queue: ArqJobQueue, client: "redis.Redis[bytes]"
) -> None:
    stopping, other = Handler(), open_handler()
    bells = new_bells(20)
    await queue.enqueue(bells)
    async with consuming(queue, stopping, 8):
        await until(lambda: stopping.running == 8)
    assert stopping.cancelled == 8
    assert client.keys("arq:in-progress:*") == []
    async with consuming(queue, other):
        await until(lambda: set(other.image_ids) == set(ids_of(bells)), seconds=LEASE_SECONDS / 2)


async def test_a_consumer_can_be_cancelled_at_any_time(queue: ArqJobQueue) -> None:
    for number in range(30):
        handler = open_handler()
        await queue.enqueue(new_bells(10))
        async with asyncio.timeout(3), consuming(queue, handler):
            await asyncio.sleep(number * 0.002)


CONSUMER = f"""
import asyncio, sys
from imgsim.adapters.jobs.arq_queue import ArqJobQueue

async def handle(image_ids):
    print(image_ids[0], flush=True)
    await asyncio.Event().wait()

async def main():
    async with ArqJobQueue(sys.argv[1], {LEASE_SECONDS}) as queue:
        await queue.consume(handle, 4)

asyncio.run(main())
"""


async def test_the_bells_of_a_consumer_that_was_killed_ring_again_after_the_lease(queue: ArqJobQueue, url: str) -> None:
    bells = new_bells(4)
    await queue.enqueue(bells)
    consumer = await asyncio.create_subprocess_exec(sys.executable, "-c", CONSUMER, url, stdout=subprocess.PIPE)
    try:
        assert consumer.stdout
        taken = [await consumer.stdout.readline() for _ in bells]
        assert {UUID(line.decode().strip()) for line in taken} == set(ids_of(bells))
        await asyncio.sleep(LEASE_SECONDS)  # it renews its hold
    finally:
        consumer.kill()
        await consumer.wait()
    handler = open_handler()
    async with consuming(queue, handler):
        await until(lambda: set(handler.image_ids) == set(ids_of(bells)), seconds=LEASE_SECONDS + 2)
    assert len(handler.image_ids) == 4


# Redis away


async def test_redis_killed_and_restarted_under_a_consumer(
    own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    handler = Handler()
    async with ArqJobQueue(own_valkey.url, LEASE_SECONDS) as queue, ArqJobQueue(own_valkey.url, 30) as api:
        async with consuming(queue, handler, 3) as task:
            await api.enqueue(before := new_bells(2))
            await until(lambda: handler.running == 2)
            own_valkey.kill()
            with pytest.raises(Unavailable):
                await api.enqueue(new_bells(1))
            with pytest.raises(Unavailable):
                await api.depth()
            with pytest.raises(Unavailable):
                await api.ping()
            await asyncio.sleep(1.2)
            assert handler.running == 2, "what runs needs no Redis"
            own_valkey.start()
            await enqueue_patiently(api, during := new_bells(3))
            await until(lambda: handler.running == 3)
            handler.open.set()
            await until(lambda: set(handler.image_ids) == set(ids_of(before + during)))
            await until_depth(queue, 0)
            assert not task.done()
        assert handler.most == 3
    assert caplog.text.count("no work is taken") == 1


async def test_redis_flushed_under_a_consumer(own_valkey: Valkey) -> None:
    handler = Handler()
    async with ArqJobQueue(own_valkey.url, LEASE_SECONDS) as queue, consuming(queue, handler, 3):
        await queue.enqueue(running := new_bells(3))
        await queue.enqueue(new_bells(5))
        await until(lambda: handler.running == 3)
        own_valkey.flush()
        handler.open.set()
        await until(lambda: not handler.running)
        await queue.enqueue(after := new_bells(2))
        await until(lambda: set(handler.image_ids) == set(ids_of(running + after)))


async def test_consuming_may_begin_and_end_while_redis_is_away(own_valkey: Valkey) -> None:
    handler = open_handler()
    async with ArqJobQueue(own_valkey.url, LEASE_SECONDS) as queue:
        own_valkey.kill()
        async with asyncio.timeout(5), consuming(queue, handler):
            await asyncio.sleep(0.1)
        async with consuming(queue, handler):
            await asyncio.sleep(0.1)
            own_valkey.start()
            await enqueue_patiently(queue, bells := new_bells(1))
            await until(lambda: handler.image_ids == ids_of(bells))


async def test_a_redis_that_does_not_answer_holds_nobody_up(own_valkey: Valkey) -> None:
    async with ArqJobQueue(own_valkey.url, LEASE_SECONDS) as queue:
        await queue.enqueue(new_bells(1))
        signal_to(own_valkey, signal.SIGSTOP)

        async def waited_for_redis() -> bool:
            with pytest.raises(Unavailable) as caught:
                await queue.enqueue(new_bells(1))
            return "failed a moment ago" not in str(caught.value)

        async def waiting() -> int:
            async with asyncio.timeout(5):
                return sum(await asyncio.gather(*(waited_for_redis() for _ in range(200))))

        assert await waiting() <= 16
        assert await waiting() == 0
        await asyncio.sleep(1.1)
        assert await waiting() == 1, "one tries, the others do not wait for it"
        signal_to(own_valkey, signal.SIGCONT)
        await enqueue_patiently(queue, new_bells(1))
        await queue.enqueue(new_bells(50))


async def test_opening_without_redis_is_unavailable_and_tells_no_password(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1") as caught:
        async with ArqJobQueue(f"redis://imgsim:tops3cret@127.0.0.1:{free_port()}/0", LEASE_SECONDS):
            pass
    assert "tops3cret" not in str(caught.value) + caplog.text


@pytest.mark.parametrize("url", ["redis://:tops3/cret@host:6379", "redis://host?socket_timeout=tops3", "redis://h?x=1"])
def test_a_url_that_is_none_is_a_settings_error_without_the_password(url: str) -> None:
    with pytest.raises(SettingsError, match=r"jobs\.url") as caught:
        ArqJobQueue(url, LEASE_SECONDS)
    assert "tops3" not in str(caught.value)


# Arq's own command line


@asynccontextmanager
async def arqs_own_worker(url: str, handle: Handle) -> AsyncIterator[None]:
    async def startup(ctx: dict[str, Any]) -> None:
        ctx["stack"] = AsyncExitStack()
        ctx["calls"] = await ctx["stack"].enter_async_context(Calls(ctx["redis"], handle, LEASE_SECONDS, 4))

    async def shutdown(ctx: dict[str, Any]) -> None:
        await ctx["stack"].aclose()

    settings = {**WORKER_OPTIONS, "redis_settings": redis_settings(url), "max_jobs": 4, "handle_signals": False}
    worker = create_worker({**settings, "on_startup": startup, "on_shutdown": shutdown})  # type: ignore[arg-type]
    running = asyncio.create_task(worker.async_run())
    try:
        yield
        await until(lambda: not worker.tasks)
    finally:
        await worker.close()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning:arq")
async def test_a_worker_that_arq_makes_answers_bells_too(
    queue: ArqJobQueue, url: str, client: "redis.Redis[bytes]"
) -> None:
    handler = open_handler()
    async with arqs_own_worker(url, handler):
        await queue.enqueue(bells := new_bells(10))
        await until(lambda: set(handler.image_ids) == set(ids_of(bells)) and not client.keys("arq:job:*"))


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning:arq")
async def test_a_worker_that_arq_makes_gives_its_bells_to_others_while_it_holds_back(
    queue: ArqJobQueue, url: str
) -> None:
    unable, other = Unable(0.3, retry_after=0.3), open_handler()
    await queue.enqueue(bells := new_bells(4))
    async with arqs_own_worker(url, unable):
        await until(lambda: unable.calls >= 4)
        async with consuming(queue, other):
            await until(lambda: set(other.image_ids) == set(ids_of(bells)))


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning:arq")
async def test_a_worker_that_arq_makes_calls_nothing_while_it_rests(
    queue: ArqJobQueue, url: str, client: "redis.Redis[bytes]"
) -> None:
    unable, other = Unable(0, retry_after=3600), open_handler()
    await queue.enqueue(bells := new_bells(50))
    async with arqs_own_worker(url, unable):
        await until(lambda: unable.calls > 0)
        await asyncio.sleep(0.2)
        calls, commands = unable.calls, client.info("stats")["total_commands_processed"]
        await asyncio.sleep(1.5)
        assert unable.calls == calls <= 4
        assert client.info("stats")["total_commands_processed"] - commands < 1000
        async with consuming(queue, other):
            await until(lambda: set(other.image_ids) == set(ids_of(bells)))
