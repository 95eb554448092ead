"""Many concurrent calls, few requests: what waits while one is under way goes into the next."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from imgsim.core.errors import Unavailable

T = TypeVar("T")


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """`items` in runs of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))


@dataclass(frozen=True, slots=True, eq=False)
class _Entry(Generic[T]):
    items: Sequence[T]
    written: asyncio.Future[None]


class Coalescer(Generic[T]):
    """Calls `write` with what callers submit to the part called `name`, at most `most` items at a time, one call
    after the other.

    The order of submission is kept. A call that fails is made again for each caller alone, so that what
    cannot be written fails alone. ``Unavailable`` is the exception: it says nothing about an item.
    """

    def __init__(self, write: Callable[[Sequence[T]], Awaitable[None]], most: int, name: str) -> None:
        self._write = write
        self._most = most
        self._name = name
        self._waiting: deque[_Entry[T]] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._closed = False
        self.writes = 0
        """How often `write` was called."""

    async def submit(self, items: Sequence[T]) -> None:
        """Return when `items` are written; raise what writing them raised. ``Unavailable`` after ``close``.

        Cancelling the caller takes out what waits; what is being written goes on unheard.
        """
        for chunk in chunks(items, self._most):
            if self._closed:
                raise self._closed_error()
            entry = _Entry(chunk, asyncio.get_running_loop().create_future())
            self._waiting.append(entry)
            if self._writer is None or self._writer.done():
                self._writer = asyncio.create_task(self._write_all(), name="coalescer")
            await entry.written

    async def close(self) -> None:
        """Fail what waits with ``Unavailable``, and return when the call under way has ended."""
        self._closed = True
        _end(self._waiting, self._closed_error())
        self._waiting.clear()
        if self._writer is not None:
            await asyncio.wait([self._writer])

    async def _write_all(self) -> None:
        while group := self._take():
            await self._attempt(group)

    def _take(self) -> list[_Entry[T]]:
        """The oldest entries that fit into one call, without those whose callers are gone."""
        group: list[_Entry[T]] = []
        size = 0
        while self._waiting and size + len(self._waiting[0].items) <= self._most:
            entry = self._waiting.popleft()
            if not entry.written.done():
                group.append(entry)
                size += len(entry.items)
        return group

    async def _attempt(self, group: Sequence[_Entry[T]]) -> None:
        self.writes += 1
        try:
            await self._write([item for entry in group for item in entry.items])
        except Exception as error:
            if len(group) == 1 or isinstance(error, Unavailable):
                _end(group, error)
            else:
                for entry in group:
                    await self._attempt([entry])
        else:
            _end(group)

    def _closed_error(self) -> Unavailable:
        return Unavailable(f"The {self._name} is closed.")


def _end(group: Sequence[_Entry[T]] | deque[_Entry[T]], error: Exception | None = None) -> None:
    for entry in group:
        if entry.written.done():
            continue
        if error is None:
            entry.written.set_result(None)
        else:
            entry.written.set_exception(error)
