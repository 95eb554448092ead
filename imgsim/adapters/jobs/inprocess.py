"""Bells that ring within one process."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Self
from uuid import UUID

from imgsim.core.errors import Unavailable
from imgsim.core.models import Bell

logger = logging.getLogger(__name__)

Handle = Callable[[Sequence[UUID]], Awaitable[None]]

_GROUP = 4
"""Most ids in one call of a handle. A call's slots come free together, so groups are small."""


class InProcessJobQueue:
    """An ordered set of ids, answered oldest first by the consumers of this process.

    An id that rings already is not added again; one that is being handled rings anew. Above
    `max_bells` new ids are dropped: their rows are still due, and the reconciler rings for them
    when there is room. `depth` counts the ids that no call of a handle has taken yet.
    """

    def __init__(self, max_bells: int = 10_000) -> None:
        self._max_bells = max_bells
        self._bells: dict[UUID, None] = {}
        self._consumers: set[asyncio.Event] = set()
        self._overflowing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Forget the bells; the rows know what is left to do."""
        self._bells.clear()

    async def ping(self) -> None:
        """Always there."""

    async def enqueue(self, bells: Sequence[Bell]) -> None:
        # The caller may be inside a transaction, which lives in its context: wake the consumers, whose
        # own context their tasks get, and start nothing here.
        for image_id, _ in bells:
            if len(self._bells) < self._max_bells:
                self._bells[image_id] = None
            elif image_id not in self._bells and not self._overflowing:
                self._overflowing = True
                logger.warning("%d bells ring already; further images wait for the reconciler", self._max_bells)
        for wake in self._consumers:
            wake.set()

    async def depth(self) -> int:
        return len(self._bells)

    async def consume(self, handle: Handle, concurrency: int) -> None:
        calls: dict[asyncio.Task[None], int] = {}  # running calls, and how many images each has
        wake = asyncio.Event()
        wake.set()

        def ended(call: asyncio.Task[None]) -> None:
            del calls[call]
            wake.set()

        self._consumers.add(wake)
        try:
            while True:
                await wake.wait()
                wake.clear()
                while self._bells and (free := concurrency - sum(calls.values())) > 0:
                    image_ids = self._take(min(_GROUP, free))
                    call = asyncio.create_task(self._answer(handle, image_ids))
                    calls[call] = len(image_ids)
                    call.add_done_callback(ended)
        finally:
            self._consumers.discard(wake)
            running = list(calls)
            for call in running:
                call.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _answer(self, handle: Handle, image_ids: Sequence[UUID]) -> None:
        try:
            await handle(image_ids)
        except Unavailable as error:
            await asyncio.sleep(error.retry_after)
            await self.enqueue([Bell(image_id, 0) for image_id in image_ids])
        except Exception:
            logger.exception("the job of images %s failed", ", ".join(map(str, image_ids)))

    def _take(self, most: int) -> list[UUID]:
        image_ids = list(islice(self._bells, most))
        for image_id in image_ids:
            del self._bells[image_id]
        self._overflowing = False
        return image_ids
