"""State changes, from where they happen to whoever listens."""

import asyncio
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple, Protocol
from uuid import UUID

from imgsim.core.errors import InvalidRequest
from imgsim.core.models import ImageEvent

_LONGEST_QUEUE = 1000
_REMEMBERED = 10_000
_PAGE = 1000


class EventId(NamedTuple):
    """``1700000000000-0``: milliseconds since 1970, and a number within them. A later event has a greater one."""

    milliseconds: int
    number: int

    @classmethod
    def parse(cls, text: str) -> "EventId":
        """``InvalidRequest`` where `text` is none."""
        if re.fullmatch(r"[0-9]{1,19}-[0-9]{1,19}", text):  # below 2^64
            milliseconds, _, number = text.partition("-")
            return cls(int(milliseconds), int(number))
        raise InvalidRequest(f"{text[:100]!r} is no id of an event; they look like 1700000000000-0.")

    @classmethod
    def now(cls) -> "EventId":
        return cls(time.time_ns() // 1_000_000, 0)

    def __str__(self) -> str:
        return f"{self.milliseconds}-{self.number}"


class Entry(NamedTuple):
    id: EventId
    event: ImageEvent


class EventRelay(Protocol):
    """Joins the buses of several processes. What it hears from any of them it gives to ``EventBus.tell``."""

    def send(self, event: ImageEvent) -> None:
        """Take `event` on its way to every process, this one included; never blocks or raises."""
        ...

    async def follow(self) -> None:
        """Return when every event that is sent from now on will be heard."""
        ...

    async def read(self, after: EventId, limit: int) -> Sequence[Entry]:
        """Up to `limit` entries after that id, oldest first; waits while they cannot be reached."""
        ...


class EventBus:
    """Tells every listener of every event, of this process or, through a relay, of all.

    A listener that falls too far behind is cut off: it can listen anew, after the last event that it heard.
    """

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._recent: deque[Entry] = deque(maxlen=_REMEMBERED)
        self._last = EventId(0, 0)
        self._relay: EventRelay | None = None

    def join(self, relay: EventRelay | None) -> None:
        """From now on events go and come through `relay`; None: they stay in this process."""
        self._relay = relay

    def publish(self, event: ImageEvent) -> None:
        if self._relay:
            self._relay.send(event)
        else:
            self._recent.append(self.tell_here(event))

    def tell_here(self, event: ImageEvent) -> Entry:
        """Tell the listeners of this process alone, under an id of its own."""
        entry = Entry(max(EventId.now(), self._last._replace(number=self._last.number + 1)), event)
        self.tell(entry)
        return entry

    def tell(self, entry: Entry) -> None:
        """Tell the listeners of this process."""
        self._last = max(self._last, entry.id)
        for listener in list(self._listeners):
            listener.tell(entry)

    @contextmanager
    def listen(self, image_id: UUID | None = None, after: EventId | None = None) -> Iterator["Listener"]:
        """Events of one image or of all: from now on, or all those later than `after` that are remembered."""
        listener = Listener(self, image_id, after)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def close(self) -> None:
        """Cut every listener off: the process stops."""
        for listener in list(self._listeners):
            listener.cut_off()

    async def follow(self) -> None:
        """Return when every event that is published from now on, in any process, will be heard here."""
        if self._relay:
            await self._relay.follow()

    async def read(self, after: EventId, limit: int) -> Sequence[Entry]:
        """Up to `limit` remembered entries after that id, oldest first."""
        if self._relay:
            return await self._relay.read(after, limit)
        return list(islice((entry for entry in self._recent if entry.id > after), limit))


class Listener:
    def __init__(self, bus: EventBus, image_id: UUID | None, after: EventId | None) -> None:
        self._bus = bus
        self._image_id = image_id
        self._queue: asyncio.Queue[Entry | None] = asyncio.Queue()
        self._cut = False
        self._missed: deque[Entry] = deque()
        self._read_up_to = after or EventId(0, 0)
        self._catching_up = after is not None
        self._live = after is None
        self.position = self._read_up_to
        """The id of the event that ``next`` gave last: where to listen on after a break."""

    def tell(self, entry: Entry) -> None:
        if self._cut or not self._live or not self._wants(entry):
            return
        if self._queue.qsize() < _LONGEST_QUEUE:
            self._queue.put_nowait(entry)
        else:
            self.cut_off()

    def cut_off(self) -> None:
        if not self._cut:
            self._cut = True
            self._queue.put_nowait(None)

    async def ready(self) -> None:
        """Return when every event from now on, of any process, will be heard."""
        await self._bus.follow()

    async def next(self) -> ImageEvent | None:
        """The next event; None when there will be no more. May be cancelled without loss."""
        while self._catching_up and not self._missed and not self._cut:
            await self._catch_up()
        entry = self._missed.popleft() if self._missed else await self._hear()
        if entry is None:
            return None
        self.position = entry.id
        return entry.event

    async def _catch_up(self) -> None:
        """Read one page of what was missed. New events are taken from the last page on: a long past must not
        fill the queue, and a last look after that leaves no gap."""
        was_live = self._live
        page = await self._bus.read(self._read_up_to, _PAGE)
        if page:
            self._read_up_to = page[-1].id
            self._missed.extend(filter(self._wants, page))
        if len(page) == _PAGE:
            return
        if was_live:
            self._catching_up = False
        else:
            await self._bus.follow()
            self._live = True

    async def _hear(self) -> Entry | None:
        while True:
            entry = await self._queue.get()
            if entry is None or entry.id > self._read_up_to:
                return entry

    def _wants(self, entry: Entry) -> bool:
        return self._image_id in (None, entry.event.id)
