"""Decoded pictures on their way from the upload to the first stage."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from imgsim.core.models import Picture


class PictureBuffer:
    """Keeps the pictures that the door decoded, so that the pipeline need not decode again.

    Bounded by `max_bytes`: what does not fit is not kept, and the pipeline decodes it from the
    store. The oldest stay, since they are the next to be worked on, but no longer than `keep_seconds`
    where others need the room: another process may have taken the image.
    """

    def __init__(self, max_bytes: int, keep_seconds: float = 120.0) -> None:
        self._max_bytes = max_bytes
        self._keep_seconds = keep_seconds
        self._bytes = 0
        self._pictures: dict[UUID, tuple[Picture, float]] = {}  # and since when; oldest first
        self._promised = 0
        self._usual = 0  # bytes of the last picture
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._pictures)

    @asynccontextmanager
    async def room(self, seconds: float) -> AsyncIterator[None]:
        """Room for a picture, kept until the context ends; entered at the latest after `seconds`, then without it.

        Uploads that come faster than the pipeline follows are slowed to its pace: otherwise each of
        them would be decoded twice, and all of them be done later.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._wake()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await turn
            yield
        finally:
            if turn.cancel() or turn.cancelled():  # its time was over
                self._waiting = deque(each for each in self._waiting if each is not turn)
            else:
                self._promised -= 1
            self._wake()

    def put(self, image_id: UUID, picture: Picture) -> None:
        self._usual = picture.nbytes
        if self._bytes + picture.nbytes > self._max_bytes:
            self._drop_stale()
        if self._bytes + picture.nbytes <= self._max_bytes and image_id not in self._pictures:
            self._pictures[image_id] = picture, time.monotonic()
            self._bytes += picture.nbytes

    def pop(self, image_id: UUID) -> Picture | None:
        kept = self._pictures.pop(image_id, None)
        if kept is None:
            return None
        self._bytes -= kept[0].nbytes
        self._wake()
        return kept[0]

    def _has_room(self) -> bool:
        """For one more as large as the last was. An empty buffer takes anybody: nothing that goes would make room."""
        return not self._pictures or self._bytes + (self._promised + 1) * self._usual <= self._max_bytes

    def _wake(self) -> None:
        """Let in whom there is room for, first come first served."""
        while self._waiting and self._has_room():
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._promised += 1

    def _drop_stale(self) -> None:
        oldest = time.monotonic() - self._keep_seconds
        for image_id in [image_id for image_id, (_, since) in self._pictures.items() if since < oldest]:
            self.pop(image_id)
