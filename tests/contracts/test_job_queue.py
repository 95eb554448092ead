"""What every job queue promises, and what the one in this process promises beyond that."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from uuid import UUID, uuid4

import pytest
import redis

from imgsim.adapters.jobs import JOB_QUEUES
from imgsim.adapters.jobs.inprocess import Handle, InProcessJobQueue
from imgsim.core.errors import Unavailable
from imgsim.core.models import Bell
from imgsim.core.ports import JobQueue
from imgsim.settings import Jobs, Settings
from tests.servers import Valkey


@pytest.fixture(params=["inprocess", "redis"])
async def queue(request: pytest.FixtureRequest) -> AsyncIterator[JobQueue]:
    url = empty_database(request.getfixturevalue("valkey")) if request.param == "redis" else "inprocess://"
    async with JOB_QUEUES[request.param](Settings(jobs=Jobs(url=url))) as queue:
        yield queue


@pytest.fixture
async def bells() -> AsyncIterator[InProcessJobQueue]:
    async with InProcessJobQueue(max_bells=10) as queue:
        yield queue


def empty_database(valkey: Valkey) -> str:
    """The URL of a database of this file alone, which holds nothing now."""
    url = valkey.url.removesuffix("/0") + "/8"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


def new_bells(count: int) -> list[Bell]:
    return [Bell(uuid4(), 0) for _ in range(count)]


def ids_of(bells: Iterable[Bell]) -> list[UUID]:
    return [bell.id for bell in bells]


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (conditions of any kind have no event)
            await asyncio.sleep(0.002)


async def until_depth(queue: JobQueue, depth: int) -> None:
    async with asyncio.timeout(10):
        while await queue.depth() != depth:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def consuming(queue: JobQueue, handle: Handle, concurrency: int = 8) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(queue.consume(handle, concurrency))
    try:
        yield task
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class Handler:
    """Notes what it is called with, and holds every call until `open` is set."""

    def __init__(self) -> None:
        self.calls: list[Sequence[UUID]] = []
        self.running = self.most = self.cancelled = 0
        self.open = asyncio.Event()

    async def __call__(self, image_ids: Sequence[UUID]) -> None:
        self.calls.append(image_ids)
        self.running += len(image_ids)
        self.most = max(self.most, self.running)
        try:
            await self.open.wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)  # what a job does last
            self.cancelled += len(image_ids)
            raise
        finally:
            self.running -= len(image_ids)

    @property
    def image_ids(self) -> list[UUID]:
        return [image_id for call in self.calls for image_id in call]


# every queue


async def test_every_bell_is_answered_whenever_it_rings(queue: JobQueue) -> None:
    handler = Handler()
    handler.open.set()
    before, during = new_bells(30), new_bells(30)
    await queue.enqueue(before)
    async with consuming(queue, handler):
        await until(lambda: set(ids_of(before)) <= set(handler.image_ids))
        await queue.enqueue(during)
        await queue.enqueue([])
        await until(lambda: set(ids_of(before + during)) == set(handler.image_ids))
        await until(lambda: not handler.running)
        await until_depth(queue, 0)
    assert len(handler.image_ids) == 60


async def test_depth_counts_bells_that_nobody_answers(queue: JobQueue) -> None:
    assert await queue.depth() == 0
    await queue.enqueue(new_bells(3))
    assert await queue.depth() == 3
    handler = Handler()
    async with consuming(queue, handler, 2):
        await until(lambda: handler.running == 2)
        await until_depth(queue, 1)


@pytest.mark.parametrize("concurrency", [1, 3, 7])
async def test_concurrency_is_of_images_and_is_used_up(queue: JobQueue, concurrency: int) -> None:
    handler = Handler()
    bells = new_bells(40)
    async with consuming(queue, handler, concurrency):
        await queue.enqueue(bells)
        await until(lambda: handler.running == concurrency)
        handler.open.set()
        await until(lambda: set(handler.image_ids) == set(ids_of(bells)))
    assert handler.most == concurrency


async def test_an_exception_is_logged_and_ends_its_call_only(queue: JobQueue, caplog: pytest.LogCaptureFixture) -> None:
    first, second = new_bells(2)
    answered: list[UUID] = []

    async def handle(image_ids: Sequence[UUID]) -> None:
        if first.id in image_ids:
            raise ValueError("a broken job")
        answered.extend(image_ids)

    async with consuming(queue, handle, 1):
        await queue.enqueue([first])
        await until(lambda: "a broken job" in caplog.text)
        await queue.enqueue([second])
        await until(lambda: answered == [second.id])
    assert str(first.id) in caplog.text


async def test_a_bell_that_cannot_be_answered_now_rings_on(queue: JobQueue, caplog: pytest.LogCaptureFixture) -> None:
    refused: list[UUID] = []
    answered: list[UUID] = []

    async def handle(image_ids: Sequence[UUID]) -> None:
        if len(refused) < 5:
            refused.extend(image_ids)
            raise Unavailable("Nothing is taken now.", retry_after=0.1)
        answered.extend(image_ids)

    bells = new_bells(3)
    await queue.enqueue(bells)
    async with consuming(queue, handle, 2):
        await until(lambda: sorted(answered) == sorted(ids_of(bells)))
        await until_depth(queue, 0)
    assert len(refused) < 8
    assert "failed" not in caplog.text


async def test_cancelling_cancels_the_running_calls_and_waits_for_them(queue: JobQueue) -> None:
    handler = Handler()
    async with consuming(queue, handler, 4) as task:
        await queue.enqueue(new_bells(9))
        await until(lambda: handler.running == 4)
        task.cancel()
        await asyncio.wait([task])
        assert (handler.running, handler.cancelled) == (0, 4)
        assert len(handler.image_ids) == 4


async def test_an_image_may_ring_again_while_it_is_handled_and_afterwards(queue: JobQueue) -> None:
    handler = Handler()
    image_id = uuid4()
    async with consuming(queue, handler):
        await queue.enqueue([Bell(image_id, 0)])
        await until(lambda: handler.running == 1)
        await queue.enqueue([Bell(image_id, 1)])
        await until(lambda: handler.running == 2)
        handler.open.set()
        await until(lambda: not handler.running)
        await queue.enqueue([Bell(image_id, 2)])
        await until(lambda: handler.image_ids == [image_id] * 3)


async def test_several_consumers_share_the_bells(queue: JobQueue) -> None:
    handlers = [Handler(), Handler()]
    bells = new_bells(8)
    async with consuming(queue, handlers[0], 4), consuming(queue, handlers[1], 4):
        await queue.enqueue(bells)
        await until(lambda: [handler.running for handler in handlers] == [4, 4])
        assert {image_id for handler in handlers for image_id in handler.image_ids} == set(ids_of(bells))


async def test_a_consumer_that_left_takes_nothing(queue: JobQueue) -> None:
    gone, here = Handler(), Handler()
    here.open.set()
    bells = new_bells(5)
    async with consuming(queue, gone):
        await asyncio.sleep(0)
    async with consuming(queue, here):
        await queue.enqueue(bells)
        await until(lambda: set(here.image_ids) == set(ids_of(bells)))
    assert gone.calls == []


transaction: ContextVar[str | None] = ContextVar("transaction", default=None)


async def test_a_job_does_not_run_in_the_context_of_who_rang(queue: JobQueue) -> None:
    seen: list[str | None] = []

    async def handle(image_ids: Sequence[UUID]) -> None:
        seen.append(transaction.get())

    async with consuming(queue, handle):
        token = transaction.set("of the upload")
        try:
            await queue.enqueue(new_bells(1))
            await until(lambda: bool(seen))
        finally:
            transaction.reset(token)
    assert seen == [None]


async def test_a_bell_that_rings_is_not_rung_twice(queue: JobQueue) -> None:
    (bell,) = new_bells(1)
    await queue.enqueue([bell, bell])
    await queue.enqueue([bell])
    assert await queue.depth() == 1
    handler = Handler()
    handler.open.set()
    async with consuming(queue, handler):
        await until(lambda: handler.image_ids == [bell.id])
        await queue.enqueue(last := new_bells(1))
        await until(lambda: handler.image_ids == [bell.id, last[0].id])


async def test_ping(queue: JobQueue) -> None:
    await queue.ping()


# in this process


async def test_calls_get_small_groups_oldest_first(bells: InProcessJobQueue) -> None:
    handler = Handler()
    ringing = new_bells(10)
    image_ids = ids_of(ringing)
    await bells.enqueue(ringing)
    async with consuming(bells, handler, 7):
        await until(lambda: handler.running == 7)
        assert handler.calls == [image_ids[:4], image_ids[4:7]]


async def test_too_many_bells_are_dropped_and_that_is_said_once(
    bells: InProcessJobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    ringing = new_bells(30)
    image_ids = ids_of(ringing)
    handler = Handler()
    handler.open.set()
    with caplog.at_level(logging.WARNING):
        await bells.enqueue(ringing[:20])
        await bells.enqueue(ringing[5:30])
    assert await bells.depth() == 10
    assert caplog.text.count("wait for the reconciler") == 1
    async with consuming(bells, handler):
        await until(lambda: len(handler.image_ids) == 10)
        await bells.enqueue(ringing[10:20])
        await until(lambda: handler.image_ids == image_ids[:20])
