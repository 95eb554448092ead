"""Coalescing without timers: what waits while all threads are busy is computed together next."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

from imgsim.core.errors import Overloaded, Unavailable
from imgsim.core.threads import usable_cores

_URGENT_IN_A_ROW = 4

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Call(Generic[R]):
    """One ``submit``: its results by position, and how many are missing."""

    future: asyncio.Future[list[R]]
    results: list[R]
    missing: int


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException


_Entry = tuple[_Call[R], int, T]
"""An item that waits: whose it is, at which position, and itself."""


class Batcher(Generic[T, R]):
    """Runs `run` on batches of what callers submit, in threads of its own, for one event loop.

    `run` takes at most `max_batch` items and returns as many results in the same order. Whenever one
    of the `threads` (0: one for each usable core) is free, it gets the oldest items that wait, or its
    share of them where several threads are free. Nothing waits for a batch to fill. What is urgent goes
    first, in batches of its own, so that a person does not wait for what else is computed with it; of five
    batches, one is of the others where any wait.

    A batch that raises is run again item by item, so that a bad item fails alone. ``Unavailable`` is
    the exception: it says nothing about an item, and all of the batch fails with it.
    """

    def __init__(
        self, run: Callable[[Sequence[T]], Sequence[R]], threads: int, max_batch: int, max_waiting: int, name: str
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._name = name
        self._free = threads or usable_cores()
        self._pool = ThreadPoolExecutor(self._free, thread_name_prefix=name)
        self._urgent: deque[_Entry[R, T]] = deque()
        self._queue: deque[_Entry[R, T]] = deque()
        self._urgent_in_a_row = 0
        self._lock = Lock()  # guards the queues, from which the threads help themselves
        self._running: set[asyncio.Future[None]] = set()
        self._dispatching = False
        self._closed = False

    @property
    def waiting(self) -> int:
        """Items that no thread has taken yet."""
        return len(self._urgent) + len(self._queue)

    async def submit(self, items: Sequence[T], urgent: bool = False) -> list[R]:
        """One result per item, in their order; the error of the first item that failed.

        `urgent`: before all that is not. ``Overloaded`` when others of its kind wait and these would make it more
        than ``max_waiting`` (alone, a call of any size is taken: refusing it would never end). ``Unavailable``
        after ``close``. Cancelling the caller takes its items out of the queue; those that run already run on
        unheard.
        """
        if self._closed:
            raise self._is_closed()
        if not items:
            return []
        queue = self._urgent if urgent else self._queue
        if queue and len(queue) + len(items) > self._max_waiting:
            raise Overloaded(
                f"{len(queue)} items wait for the {self._name} and at most {self._max_waiting} may; try later.",
                retry_after=1.0,
            )
        loop = asyncio.get_running_loop()
        call: _Call[R] = _Call(loop.create_future(), [None] * len(items), len(items))  # type: ignore[list-item]
        with self._lock:
            queue.extend((call, position, item) for position, item in enumerate(items))
        self._dispatch_soon(loop)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._forget(call)
            raise

    async def close(self) -> None:
        """Fail what waits with ``Unavailable``, and return when the running batches have ended."""
        self._closed = True
        with self._lock:
            waiting = {call for queue in (self._urgent, self._queue) for call, _, _ in queue}
            self._urgent.clear()
            self._queue.clear()
        for call in waiting:
            if not call.future.done():
                call.future.set_exception(self._is_closed())
        if self._running:
            await asyncio.wait(self._running)
        self._pool.shutdown()

    def _dispatch_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Dispatch at the end of this turn of the loop: callers of the same turn share a batch."""
        if self._free and not self._dispatching:
            self._dispatching = True
            loop.call_soon(self._dispatch, loop)

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._dispatching = False
        while self._free and (batch := self._take(self._free)):
            self._free -= 1
            running = loop.run_in_executor(self._pool, self._work, batch, loop)
            self._running.add(running)
            running.add_done_callback(self._freed)

    def _take(self, sharers: int) -> list[_Entry[R, T]]:
        """The next batch for one of `sharers` threads, so that a small rest leaves none of them idle."""
        with self._lock:
            queue = self._next_queue()
            share = -(-len(queue) // sharers)  # rounded up
            return [queue.popleft() for _ in range(min(share, self._max_batch))]

    def _next_queue(self) -> deque[_Entry[R, T]]:
        """The urgent one, but for a batch of the other after some: a flood of searches must not stop all else."""
        if self._urgent and not (self._queue and self._urgent_in_a_row >= _URGENT_IN_A_ROW):
            self._urgent_in_a_row += 1
            return self._urgent
        self._urgent_in_a_row = 0
        return self._queue

    def _work(self, batch: list[_Entry[R, T]], loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: batch after batch while any waits. A busy loop would hand out the next one late."""
        while batch:
            outcomes = self._attempt([item for _, _, item in batch])
            loop.call_soon_threadsafe(self._deliver, batch, outcomes)
            batch = self._take(self._free + 1)

    def _freed(self, running: asyncio.Future[None]) -> None:
        """On the loop: a thread has found nothing more to do."""
        self._free += 1
        self._running.discard(running)
        if self.waiting:
            self._dispatch_soon(running.get_loop())

    def _attempt(self, items: Sequence[T]) -> list[R | _Failure]:
        """In a thread: a result or a failure for each of `items`."""
        try:
            results = self._run(items)
            if len(results) != len(items):
                raise RuntimeError(f"{self._name}: {len(results)} results for {len(items)} items")
            return list(results)
        except BaseException as error:  # a thread that dies of it would leave its callers waiting
            if len(items) == 1 or isinstance(error, Unavailable):
                return [_Failure(error)] * len(items)
            return [outcome for item in items for outcome in self._attempt([item])]

    def _deliver(self, batch: Sequence[_Entry[R, T]], outcomes: Sequence[R | _Failure]) -> None:
        """On the loop: hand out what a batch gave."""
        for (call, position, _), outcome in zip(batch, outcomes, strict=True):
            if call.future.done():
                continue
            if isinstance(outcome, _Failure):
                call.future.set_exception(outcome.error)
                self._forget(call)
                continue
            call.results[position] = outcome
            call.missing -= 1
            if not call.missing:
                call.future.set_result(call.results)

    def _forget(self, call: _Call[R]) -> None:
        """Take the items of a call that has ended out of the queue."""
        with self._lock:
            for queue in (self._urgent, self._queue):
                if any(other is call for other, _, _ in queue):
                    kept = [entry for entry in queue if entry[0] is not call]
                    queue.clear()
                    queue.extend(kept)

    def _is_closed(self) -> Unavailable:
        return Unavailable(f"The {self._name} is shutting down.")
