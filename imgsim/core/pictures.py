"""Decoded pictures on their way from the upload to the first stage."""

import asyncio
import contextlib
from uuid import UUID

from imgsim.core.models import Picture


class PictureBuffer:
    """Keeps the pictures that the door decoded, so that the pipeline need not decode again.

    Bounded by `max_bytes`: what does not fit is not kept, and the pipeline decodes it from the
    store. The oldest stay, since they are the next to be worked on.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._pictures: dict[UUID, Picture] = {}
        self._room = asyncio.Event()
        self._room.set()

    def put(self, image_id: UUID, picture: Picture) -> None:
        if self._bytes + picture.nbytes > self._max_bytes:
            if self._pictures:  # else nothing that goes would make room
                self._room.clear()
        elif image_id not in self._pictures:
            self._pictures[image_id] = picture
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
        picture = self._pictures.pop(image_id, None)
        if picture is not None:
            self._bytes -= picture.nbytes
            self._room.set()
        return picture
