"""Events across processes, through a Redis Stream."""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Self
from uuid import uuid4

import msgspec
from redis.asyncio import Redis

from imgsim.adapters.redis_pool import REDIS_ERRORS, cancel, redis_pool
from imgsim.core.events import Entry, EventBus, EventId
from imgsim.core.models import ImageEvent

logger = logging.getLogger(__name__)

STREAM = "imgsim:events"

_KEPT = 100_000
"""Entries that the stream remembers, about: 300 bytes each."""
_MOST_WAITING = 10_000
_BATCH = 500
_PAGES_AT_ONCE = 4
_BLOCK_SECONDS = 2.0
_PATIENCE = 5.0
_SECONDS_BETWEEN_TRIES = 0.5
_SECONDS_TO_FOLLOW = 1.0
_SECONDS_TO_FLUSH = 1.0


class RedisEventRelay:
    """Every process appends its events to one stream, and those with listeners read it.

    The ids of the stream are the ids of the events, so they mean the same to every process. While Redis is
    away the events of this process reach its own listeners directly, under ids of its own, and the last
    10,000 of them wait for Redis to return. The other processes may then hear one twice.
    """

    def __init__(self, url: str, bus: EventBus) -> None:
        self._url = url
        self._bus = bus
        self._origin = uuid4().hex.encode()
        self._number = 0
        self._outgoing: deque[tuple[int, ImageEvent]] = deque(maxlen=_MOST_WAITING)
        self._unheard: dict[int, ImageEvent] = {}  # own events that the listeners here have not been told
        self._sent = asyncio.Event()
        self._away = self._overflowing = False
        self._position: EventId | None = None  # of the last entry that was read
        self._reading = asyncio.Event()
        self._starting = asyncio.Lock()
        self._pages = asyncio.Semaphore(_PAGES_AT_ONCE)

    async def __aenter__(self) -> Self:
        self._redis: Redis = Redis(connection_pool=redis_pool(self._url, _PATIENCE))
        self._tasks = [asyncio.create_task(work) for work in (self._write_forever(), self._read_forever())]
        self._bus.join(self)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._bus.join(None)
        await cancel(*self._tasks)
        await self._flush()
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    def send(self, event: ImageEvent) -> None:
        self._number += 1
        if len(self._outgoing) == _MOST_WAITING and not self._overflowing:
            self._overflowing = True
            logger.warning("%d events wait for Redis; older ones are dropped", _MOST_WAITING)
        self._outgoing.append((self._number, event))
        if self._away:
            self._bus.tell_here(event)
        elif self._reading.is_set():
            self._unheard[self._number] = event
            self._unheard.pop(self._number - _MOST_WAITING, None)
        self._sent.set()

    async def follow(self) -> None:
        async with self._starting:
            if self._position is None:
                try:
                    async with asyncio.timeout(_SECONDS_TO_FOLLOW):
                        self._position = await self._end()
                except REDIS_ERRORS:
                    self._position = EventId.now()
                self._reading.set()

    async def read(self, after: EventId, limit: int) -> Sequence[Entry]:
        entries: list[Entry] = []
        while len(entries) < limit:
            missing = limit - len(entries)
            page = await self._page(after, missing)
            entries += filter(None, (_entry(name, fields) for name, fields in page))
            if len(page) < missing:
                break
            after = EventId.parse(page[-1][0].decode())
        return entries

    async def _page(self, after: EventId, limit: int) -> Sequence[tuple[bytes, Mapping[bytes, bytes]]]:
        while True:
            try:
                async with self._pages:
                    page: Sequence[tuple[bytes, Mapping[bytes, bytes]]] = await self._redis.xrange(
                        STREAM, min=f"({after}", count=limit
                    )
                    return page
            except REDIS_ERRORS:
                await asyncio.sleep(_SECONDS_BETWEEN_TRIES)

    async def _end(self) -> EventId:
        last = await self._redis.xrevrange(STREAM, count=1)
        return EventId.parse(last[0][0].decode()) if last else EventId(0, 0)

    # out

    async def _write_forever(self) -> None:
        while True:
            await self._sent.wait()
            self._sent.clear()
            while self._outgoing:
                try:
                    await self._write(list(islice(self._outgoing, _BATCH)))
                except REDIS_ERRORS as error:
                    self._lost(error)
                    await asyncio.sleep(_SECONDS_BETWEEN_TRIES)
                else:
                    self._found()

    async def _write(self, batch: Sequence[tuple[int, ImageEvent]]) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            for number, event in batch:
                fields = {"event": msgspec.json.encode(event), "origin": self._origin, "number": number}
                pipe.xadd(STREAM, fields, maxlen=_KEPT, approximate=True)  # type: ignore[arg-type]
            await pipe.execute()
        while self._outgoing and self._outgoing[0][0] <= batch[-1][0]:
            self._outgoing.popleft()

    def _lost(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            logger.warning("events stay in this process, Redis cannot be reached: %s", error)
            for event in self._unheard.values():
                self._bus.tell_here(event)
            self._unheard.clear()

    def _found(self) -> None:
        if self._away:
            self._away = self._overflowing = False
            logger.info("events reach the other processes again")

    async def _flush(self) -> None:
        """The last events of a process that stops should be heard; not for long where Redis is away."""
        try:
            async with asyncio.timeout(_SECONDS_TO_FLUSH):
                while self._outgoing:
                    await self._write(list(islice(self._outgoing, _BATCH)))
        except REDIS_ERRORS:
            logger.warning("%d events were not told to the other processes", len(self._outgoing))

    # in

    async def _read_forever(self) -> None:
        await self._reading.wait()
        while True:
            try:
                answer = await self._redis.xread(
                    {STREAM: str(self._position)}, count=_BATCH, block=int(_BLOCK_SECONDS * 1000)
                )
            except REDIS_ERRORS:
                await asyncio.sleep(_SECONDS_BETWEEN_TRIES)
                continue
            for _, entries in answer:
                for name, fields in entries:
                    self._position = EventId.parse(name.decode())
                    self._hear(name, fields)

    def _hear(self, name: bytes, fields: Mapping[bytes, bytes]) -> None:
        own = fields.get(b"origin") == self._origin
        if own and self._unheard.pop(int(fields[b"number"]), None) is None:
            return  # told while Redis was away
        if entry := _entry(name, fields):
            self._bus.tell(entry)


def _entry(name: bytes, fields: Mapping[bytes, Any]) -> Entry | None:
    """None for an entry of another version of imgsim, which this one cannot read."""
    try:
        return Entry(EventId.parse(name.decode()), msgspec.json.decode(fields[b"event"], type=ImageEvent))
    except (KeyError, msgspec.MsgspecError) as error:
        logger.warning("an event in Redis cannot be read: %s", error)
        return None
