"""Batches are made of what waits; errors, cancellation and shutdown reach exactly the calls they belong to."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from imgsim.adapters.batcher import Batcher
from imgsim.core.errors import Overloaded, Unavailable


class Doubler:
    """Doubles numbers, noting its batches; stops at a gate, and fails on a batch with a negative number."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.error: Callable[[], Exception] = lambda: ValueError("negative")

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.entered.release()
        assert self.gate.wait(10)
        if min(items) < 0:
            raise self.error()
        return [2 * item for item in items]

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


@asynccontextmanager
async def opened(
    run: Doubler, threads: int = 1, max_batch: int = 4, max_waiting: int = 100
) -> AsyncIterator[Batcher[int, int]]:
    batcher = Batcher(run, threads, max_batch, max_waiting, "doubler")
    try:
        yield batcher
    finally:
        run.gate.set()
        await batcher.close()


@asynccontextmanager
async def busy(run: Doubler, batcher: Batcher[int, int]) -> AsyncIterator[asyncio.Task[list[int]]]:
    """The only thread is held by the item 0 until the block ends."""
    run.gate.clear()
    first = asyncio.create_task(batcher.submit([0]))
    await run.wait_entered()
    try:
        yield first
    finally:
        run.gate.set()


async def turn() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_gives_results_in_the_order_of_the_items() -> None:
    async with opened(Doubler(), threads=3, max_waiting=1000) as batcher:
        answers = await asyncio.gather(*(batcher.submit(list(range(n, n + n % 7))) for n in range(60)))
    assert answers == [[2 * i for i in range(n, n + n % 7)] for n in range(60)]


async def test_nothing_submitted_gives_nothing() -> None:
    run = Doubler()
    async with opened(run) as batcher:
        assert await batcher.submit([]) == []
    assert run.batches == []


async def test_what_waits_is_computed_together_oldest_first() -> None:
    run = Doubler()
    async with opened(run) as batcher:
        async with busy(run, batcher):
            calls = [asyncio.create_task(batcher.submit([n, n + 1])) for n in (1, 3, 5)]
            await turn()
            assert batcher.waiting == 6
        assert await asyncio.gather(*calls) == [[2, 4], [6, 8], [10, 12]]
        assert batcher.waiting == 0
    assert run.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_calls_of_one_turn_share_a_batch() -> None:
    run = Doubler()
    async with opened(run) as batcher:
        await asyncio.gather(*(batcher.submit([n]) for n in range(4)))
    assert run.batches == [[0, 1, 2, 3]]


async def test_free_threads_share_what_waits() -> None:
    run = Doubler()
    async with opened(run, threads=2) as batcher:
        await batcher.submit([0, 1])
    assert sorted(run.batches) == [[0], [1]]


async def test_a_bad_item_fails_alone() -> None:
    run = Doubler()
    async with opened(run) as batcher:
        answers = await asyncio.gather(*(batcher.submit([n]) for n in (1, -1, 2)), return_exceptions=True)
        assert [answers[0], answers[2]] == [[2], [4]]
        assert isinstance(answers[1], ValueError)
        assert await batcher.submit([9]) == [18]


async def test_a_failed_call_takes_the_rest_of_its_items_out_of_the_queue() -> None:
    run = Doubler()
    async with opened(run, max_batch=2) as batcher:
        with pytest.raises(ValueError, match="negative"):
            await batcher.submit([1, -1, 2, 3, 4, 5])
        assert batcher.waiting == 0


async def test_unavailable_fails_the_batch_without_asking_again() -> None:
    run = Doubler()
    run.error = Unavailable
    async with opened(run) as batcher:
        answers = await asyncio.gather(*(batcher.submit([n]) for n in (1, -1)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
    assert run.batches == [[1, -1]]


async def test_a_wrong_number_of_results_is_an_error() -> None:
    batcher: Batcher[int, int] = Batcher(lambda items: [1, 2, 3], 1, 4, 100, "liar")
    with pytest.raises(RuntimeError, match="3 results for 1 items"):
        await batcher.submit([1])
    await batcher.close()


async def test_a_cancelled_call_leaves_the_queue() -> None:
    run = Doubler()
    async with opened(run) as batcher:
        async with busy(run, batcher):
            cancelled = asyncio.create_task(batcher.submit([1, 2]))
            kept = asyncio.create_task(batcher.submit([3]))
            await turn()
            cancelled.cancel()
            await turn()
            assert cancelled.cancelled()
            assert batcher.waiting == 1
        assert await kept == [6]
    assert run.batches == [[0], [3]]


async def test_cancelling_what_runs_harms_no_one_else() -> None:
    run = Doubler()
    async with opened(run) as batcher:
        async with busy(run, batcher) as first:
            kept = asyncio.create_task(batcher.submit([3]))
            await turn()
            first.cancel()
        assert await kept == [6]
    assert first.cancelled()


async def test_too_many_waiting_are_refused_and_those_before_go_on() -> None:
    run = Doubler()
    async with opened(run, max_waiting=3) as batcher:
        async with busy(run, batcher):
            waiting = asyncio.create_task(batcher.submit([1, 2]))
            await turn()
            with pytest.raises(Overloaded, match="2 items wait for the doubler and at most 3 may") as refused:
                await batcher.submit([3, 4])
            assert refused.value.retry_after > 0
        assert await waiting == [2, 4]
        assert await batcher.submit([5]) == [10]


async def test_a_call_larger_than_the_queue_is_taken_when_nobody_waits() -> None:
    async with opened(Doubler(), max_waiting=3) as batcher:
        assert await batcher.submit(list(range(10))) == [2 * n for n in range(10)]


async def test_close_fails_what_waits_and_finishes_what_runs() -> None:
    run = Doubler()
    async with opened(run) as batcher:
        async with busy(run, batcher) as first:
            waiting = asyncio.create_task(batcher.submit([1]))
            await turn()
            closing = asyncio.create_task(batcher.close())
            with pytest.raises(Unavailable, match="doubler is shutting down"):
                await waiting
            assert not closing.done()
        await closing
        assert await first == [0]
        with pytest.raises(Unavailable):
            await batcher.submit([2])
    assert run.batches == [[0]]


async def test_what_is_urgent_goes_first_and_alone() -> None:
    run = Doubler()
    async with opened(run, max_waiting=4) as batcher:
        async with busy(run, batcher):
            bulk = asyncio.create_task(batcher.submit([1, 2, 3, 4]))
            await turn()
            urgent = asyncio.create_task(batcher.submit([9], urgent=True))  # though no more of the others are taken
            await turn()
            with pytest.raises(Overloaded):
                await batcher.submit([5])
            assert batcher.waiting == 5
        assert await urgent == [18]
        assert await bulk == [2, 4, 6, 8]
    assert run.batches == [[0], [9], [1, 2, 3, 4]]


async def test_an_urgent_call_that_is_cancelled_leaves_the_queue() -> None:
    run = Doubler()
    async with opened(run) as batcher, busy(run, batcher):
        urgent = asyncio.create_task(batcher.submit([9], urgent=True))
        await turn()
        urgent.cancel()
        await turn()
        assert batcher.waiting == 0
    assert run.batches == [[0]]


async def test_a_flood_of_urgent_calls_does_not_stop_the_others() -> None:
    run = Doubler()
    async with opened(run, max_batch=1) as batcher:
        async with busy(run, batcher):
            urgent = [asyncio.create_task(batcher.submit([number], urgent=True)) for number in range(10, 20)]
            bulk = asyncio.create_task(batcher.submit([1, 2]))
            await turn()
        await asyncio.gather(*urgent, bulk)
    assert [batch[0] for batch in run.batches].index(1) == 5
    assert [batch[0] for batch in run.batches].index(2) == 10
