"""Concurrent writes share calls, and each caller has its own outcome."""

import asyncio
from collections.abc import Sequence

import pytest

from imgsim.adapters.coalescer import Coalescer
from imgsim.core.errors import InvalidRequest, Unavailable


class Store:
    """Writes when `gate` is open. A negative number is refused; while `away`, all is."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.away = False

    async def write(self, items: Sequence[int]) -> None:
        await self.gate.wait()
        if self.away:
            raise Unavailable("away")
        if any(item < 0 for item in items):
            raise InvalidRequest("negative")
        self.calls.append(list(items))


@pytest.fixture
def store() -> Store:
    return Store()


async def test_what_waits_during_a_call_goes_into_the_next(store: Store) -> None:
    coalescer = Coalescer(store.write, most=64, name="store")
    store.gate.clear()
    first = asyncio.create_task(coalescer.submit([0]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [asyncio.create_task(coalescer.submit([n])) for n in range(1, 100)]
    await asyncio.sleep(0)
    store.gate.set()
    await asyncio.gather(first, *others)
    assert store.calls == [[0], list(range(1, 65)), list(range(65, 100))]
    assert coalescer.writes == 3


async def test_a_large_submission_is_split_and_lets_others_in_between(store: Store) -> None:
    coalescer = Coalescer(store.write, most=4, name="store")
    await asyncio.gather(coalescer.submit(list(range(10))), coalescer.submit([77]))
    assert store.calls == [[0, 1, 2, 3], [77], [4, 5, 6, 7], [8, 9]]
    await coalescer.submit([])
    assert coalescer.writes == 4


async def test_what_is_refused_fails_alone(store: Store) -> None:
    coalescer = Coalescer(store.write, most=10, name="store")
    outcomes = await asyncio.gather(*[coalescer.submit([n]) for n in (1, -2, 3)], return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["None", "negative", "None"]
    assert store.calls == [[1], [3]]


async def test_a_store_that_is_away_fails_all_of_a_call_and_is_asked_once(store: Store) -> None:
    coalescer = Coalescer(store.write, most=10, name="store")
    store.away = True
    outcomes = await asyncio.gather(*[coalescer.submit([n]) for n in range(5)], return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 5
    assert coalescer.writes == 1
    store.away = False
    await coalescer.submit([6])
    assert store.calls == [[6]]


async def test_a_caller_that_gives_up_takes_out_what_waits_and_harms_nobody(store: Store) -> None:
    coalescer = Coalescer(store.write, most=10, name="store")
    store.gate.clear()
    running = asyncio.create_task(coalescer.submit([1]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting, staying = [asyncio.create_task(coalescer.submit([n])) for n in (2, 3)]
    await asyncio.sleep(0)
    running.cancel()
    waiting.cancel()
    store.gate.set()
    await staying
    assert store.calls == [[1], [3]]


async def test_close_fails_what_waits_and_ends_what_runs(store: Store) -> None:
    coalescer = Coalescer(store.write, most=1, name="store")
    store.gate.clear()
    tasks = [asyncio.create_task(coalescer.submit([n])) for n in (1, 2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    closing = asyncio.create_task(coalescer.close())
    await asyncio.sleep(0)
    assert not closing.done()
    store.gate.set()
    await closing
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[0] is None
    assert isinstance(outcomes[1], Unavailable)
    with pytest.raises(Unavailable):
        await coalescer.submit([3])
    assert store.calls == [[1]]
