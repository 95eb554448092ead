"""State changes, from where they happen to whoever listens in this process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from imgsim.core.models import ImageEvent

_LONGEST_QUEUE = 1000


class EventBus:
    """Tells every listener of every event. A listener that falls too far behind is cut off: it
    can ask for the present state and listen anew."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()

    def publish(self, event: ImageEvent) -> None:
        for listener in list(self._listeners):
            listener.tell(event)

    @contextmanager
    def listen(self, image_id: UUID | None = None) -> Iterator["Listener"]:
        """Events from now on, of one image or of all."""
        listener = Listener(image_id)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def close(self) -> None:
        """Cut every listener off: the process stops."""
        for listener in list(self._listeners):
            listener.cut_off()


class Listener:
    def __init__(self, image_id: UUID | None) -> None:
        self._image_id = image_id
        self._queue: asyncio.Queue[ImageEvent | None] = asyncio.Queue()
        self._cut = False

    def tell(self, event: ImageEvent) -> None:
        if self._cut or self._image_id not in (None, event.id):
            return
        if self._queue.qsize() < _LONGEST_QUEUE:
            self._queue.put_nowait(event)
        else:
            self.cut_off()

    def cut_off(self) -> None:
        if not self._cut:
            self._cut = True
            self._queue.put_nowait(None)

    async def next(self) -> ImageEvent | None:
        """The next event; None when there will be no more."""
        return await self._queue.get()
