"""What every job queue promises, and what the one in this process promises beyond that."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from uuid import UUID, uuid4

import pytest

from imgsim.adapters.jobs import JOB_QUEUES
from imgsim.adapters.jobs.inprocess import Handle, InProcessJobQueue
from imgsim.core.ports import JobQueue
from imgsim.settings import Settings


@pytest.fixture(params=["inprocess"])
async def queue(request: pytest.FixtureRequest) -> AsyncIterator[JobQueue]:
    async with JOB_QUEUES[request.param](Settings()) as queue:
        yield queue


@pytest.fixture
async def bells() -> AsyncIterator[InProcessJobQueue]:
    async with InProcessJobQueue(max_bells=10) as queue:
        yield queue


def new_ids(count: int) -> list[UUID]:
    return [uuid4() for _ in range(count)]


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (conditions of any kind have no event)
            await asyncio.sleep(0.002)


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
    before, during = new_ids(30), new_ids(30)
    await queue.enqueue(before)
    async with consuming(queue, handler):
        await until(lambda: set(before) <= set(handler.image_ids))
        await queue.enqueue(during)
        await queue.enqueue([])
        await until(lambda: set(before + during) == set(handler.image_ids))
        await until(lambda: not handler.running)
    assert await queue.depth() == 0


async def test_depth_counts_bells_that_nobody_answers(queue: JobQueue) -> None:
    assert await queue.depth() == 0
    await queue.enqueue(new_ids(3))
    assert await queue.depth() == 3


@pytest.mark.parametrize("concurrency", [1, 3, 7])
async def test_concurrency_is_of_images_and_is_used_up(queue: JobQueue, concurrency: int) -> None:
    handler = Handler()
    image_ids = new_ids(40)
    async with consuming(queue, handler, concurrency):
        await queue.enqueue(image_ids)
        await until(lambda: handler.running == concurrency)
        handler.open.set()
        await until(lambda: set(handler.image_ids) == set(image_ids))
    assert handler.most == concurrency


async def test_an_exception_is_logged_and_ends_its_call_only(queue: JobQueue, caplog: pytest.LogCaptureFixture) -> None:
    first, second = new_ids(2)
    answered: list[UUID] = []

    async def handle(image_ids: Sequence[UUID]) -> None:
        if first in image_ids:
            raise ValueError("a broken job")
        answered.extend(image_ids)

    async with consuming(queue, handle, 1):
        await queue.enqueue([first])
        await until(lambda: "a broken job" in caplog.text)
        await queue.enqueue([second])
        await until(lambda: answered == [second])
    assert str(first) in caplog.text


async def test_cancelling_cancels_the_running_calls_and_waits_for_them(queue: JobQueue) -> None:
    handler = Handler()
    async with consuming(queue, handler, 4) as task:
        await queue.enqueue(new_ids(9))
        await until(lambda: handler.running == 4)
        task.cancel()
        await asyncio.wait([task])
        assert (handler.running, handler.cancelled) == (0, 4)
        assert len(handler.image_ids) == 4


async def test_an_image_may_ring_again_while_it_is_handled_and_afterwards(queue: JobQueue) -> None:
    handler = Handler()
    (image_id,) = new_ids(1)
    async with consuming(queue, handler):
        await queue.enqueue([image_id])
        await until(lambda: handler.running > 0)
        handler.open.set()
        await until(lambda: not handler.running)
        await queue.enqueue([image_id])
        await until(lambda: len(handler.image_ids) >= 2)


async def test_several_consumers_share_the_bells(queue: JobQueue) -> None:
    handlers = [Handler(), Handler()]
    image_ids = new_ids(8)
    async with consuming(queue, handlers[0], 4), consuming(queue, handlers[1], 4):
        await queue.enqueue(image_ids)
        await until(lambda: [handler.running for handler in handlers] == [4, 4])
        assert {image_id for handler in handlers for image_id in handler.image_ids} == set(image_ids)


async def test_a_consumer_that_left_takes_nothing(queue: JobQueue) -> None:
    gone, here = Handler(), Handler()
    here.open.set()
    image_ids = new_ids(5)
    async with consuming(queue, gone):
        await asyncio.sleep(0)
    async with consuming(queue, here):
        await queue.enqueue(image_ids)
        await until(lambda: set(here.image_ids) == set(image_ids))
    assert gone.calls == []


transaction: ContextVar[str | None] = ContextVar("transaction", default=None)


async def test_a_job_does_not_run_in_the_context_of_who_rang(queue: JobQueue) -> None:
    seen: list[str | None] = []

    async def handle(image_ids: Sequence[UUID]) -> None:
        seen.append(transaction.get())

    async with consuming(queue, handle):
        token = transaction.set("of the upload")
        try:
            await queue.enqueue(new_ids(1))
            await until(lambda: bool(seen))
        finally:
            transaction.reset(token)
    assert seen == [None]


async def test_ping(queue: JobQueue) -> None:
    await queue.ping()


# in this process


async def test_calls_get_small_groups_oldest_first(bells: InProcessJobQueue) -> None:
    handler = Handler()
    image_ids = new_ids(10)
    await bells.enqueue(image_ids)
    async with consuming(bells, handler, 7):
        await until(lambda: handler.running == 7)
        assert handler.calls == [image_ids[:4], image_ids[4:7]]


async def test_a_bell_that_rings_is_not_rung_twice(bells: InProcessJobQueue) -> None:
    (image_id,) = new_ids(1)
    await bells.enqueue([image_id, image_id])
    await bells.enqueue([image_id])
    assert await bells.depth() == 1


async def test_too_many_bells_are_dropped_and_that_is_said_once(
    bells: InProcessJobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    image_ids = new_ids(30)
    handler = Handler()
    handler.open.set()
    with caplog.at_level(logging.WARNING):
        await bells.enqueue(image_ids[:20])
        await bells.enqueue(image_ids[5:30])
    assert await bells.depth() == 10
    assert caplog.text.count("wait for the reconciler") == 1
    async with consuming(bells, handler):
        await until(lambda: len(handler.image_ids) == 10)
        await bells.enqueue(image_ids[10:20])
        await until(lambda: handler.image_ids == image_ids[:20])
