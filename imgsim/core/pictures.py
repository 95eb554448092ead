"""Decoded pictures on their way from the upload to the first stage."""

import asyncio
import contextlib
import time
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
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        return len(self._pictures)

    def put(self, image_id: UUID, picture: Picture) -> None:
        if self._bytes + picture.nbytes > self._max_bytes:
            self._drop_stale()
        if self._bytes + picture.nbytes > self._max_bytes:
            if self._pictures:  # else nothing that goes would make room
                self._room.clear()
        elif image_id not in self._pictures:
            self._pictures[image_id] = picture, time.monotonic()
            self._bytes += picture.nbytes

    async def wait_for_room(self, seconds: float) -> None:
        """Return when there is room, at the latest after `seconds`.

        Uploads that come faster than the pipeline follows are slowed to its pace: otherwise each of
        them would be decoded twice, and all of them be done later.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._room.wait()

    def pop(self, image_id: UUID) -> Picture | None:
        kept = self._pictures.pop(image_id, None)
        if kept is None:
            return None
        self._bytes -= kept[0].nbytes
        self._room.set()
        return kept[0]

    def _drop_stale(self) -> None:
        oldest = time.monotonic() - self._keep_seconds
        for image_id in [image_id for image_id, (_, since) in self._pictures.items() if since < oldest]:
            self.pop(image_id)
