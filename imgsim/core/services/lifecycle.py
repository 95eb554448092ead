"""Looking after images: change, delete, retry, and bring to an end whatever was left unfinished."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from imgsim.core.errors import ImgsimError
from imgsim.core.events import EventBus
from imgsim.core.models import Bell, Image, ImageEvent, derived_prefix, original_key
from imgsim.core.pictures import PictureBuffer
from imgsim.core.ports import ImageRepository, JobQueue, ObjectStore, VectorIndex
from imgsim.core.services.ingest import valid_metadata, valid_tags
from imgsim.core.services.payload import index_payload

log = logging.getLogger("imgsim.lifecycle")

# What one look does at most of each kind; the next look does the rest.
_MOST_AT_ONCE = 2000


class LifecycleService:
    def __init__(
        self,
        *,
        objects: ObjectStore,
        images: ImageRepository,
        vectors: VectorIndex,
        jobs: JobQueue,
        events: EventBus,
        pictures: PictureBuffer,
        max_attempts: int,
        cache_keep_seconds: float,
    ) -> None:
        self._objects = objects
        self._images = images
        self._vectors = vectors
        self._jobs = jobs
        self._events = events
        self._pictures = pictures
        self._max_attempts = max_attempts
        self._cache_keep_seconds = cache_keep_seconds

    async def update(
        self, image_id: UUID, tags: Sequence[str] | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Image:
        """Replace tags or metadata. Raises ``ImageNotFound``, ``InvalidRequest``."""
        tags = valid_tags(tags) if tags is not None else None
        metadata = valid_metadata(metadata) if metadata is not None else None
        image = await self._images.update(image_id, tags, metadata)
        if tags is not None or metadata is not None:
            await index_payload(image, self._images, self._vectors)
        return image

    async def retry(self, image_id: UUID) -> Image:
        """From ``error`` back to ``pending``. Raises ``ImageNotFound``, ``WrongState``."""
        image = await self._images.retry(image_id)
        self._events.publish(ImageEvent.of(image))
        await self._ring([Bell(image.id, image.attempts)])
        return image

    async def delete(self, image_id: UUID) -> None:
        """Remove the image with all that was made of it. Raises ``ImageNotFound``.

        From here on nobody sees it. What cannot be removed now (a part is down, or a job is still
        running) the reconciler removes later.
        """
        image = await self._images.entomb(image_id)
        self._pictures.pop(image_id)
        event = ImageEvent.of(replace(image, stage=None, error=None, updated_at=datetime.now(UTC)))
        self._events.publish(replace(event, state="deleted"))
        try:
            await self._erase(image)
            if image.at_rest:  # no job can be running
                await self._purge(image)
        except ImgsimError as error:
            log.warning("image %s is deleted, what remains of it follows later: %s", image.id, error)

    async def _erase(self, image: Image) -> None:
        await self._vectors.delete([image.id])
        await self._objects.delete(original_key(image.id))
        async for info in self._objects.list(derived_prefix(image.id)):
            await self._objects.delete(info.key)

    async def _purge(self, image: Image) -> None:
        await self._images.purge(image.id)
        if self._cache_keep_seconds == 0:
            await self._images.sweep_cache(0)

    async def reconcile(self) -> int:
        """One look: ring, finish deletes, sweep abandoned uploads and the cache. Returns how many bells it rang."""
        rung = await self._ring_again()
        for image in await self._images.tombstones(_MOST_AT_ONCE):
            try:
                await self._erase(image)
                await self._purge(image)
            except ImgsimError as error:  # one that cannot be removed now is no reason to leave the others
                log.warning("what remains of the deleted image %s cannot be removed yet: %s", image.id, error)
        for image_id in await self._images.expired_reservations(_MOST_AT_ONCE):
            await self._abandon(image_id)
        await self._images.sweep_cache(self._cache_keep_seconds)
        return rung

    async def _ring_again(self) -> int:
        """Ring for what is due, unless so many bells ring already that none of them can be told to be lost."""
        if await self._jobs.depth() >= _MOST_AT_ONCE:
            return 0
        bells = await self._images.due(_MOST_AT_ONCE)
        if bells:
            await self._ring(bells)
        return len(bells)

    async def _abandon(self, image_id: UUID) -> None:
        """Remove what was uploaded straight to the store and never confirmed."""
        if not await self._images.get_many([image_id]):
            await self._objects.delete(original_key(image_id))
        await self._images.unreserve(image_id)

    async def bury(self) -> None:
        """Lay those to rest whose last allowed attempt ended with its process."""
        for image in await self._images.bury(self._max_attempts):
            log.error("image %s rests in error: %s", image.id, image.error.message if image.error else "")
            self._events.publish(ImageEvent.of(image))

    async def reconcile_forever(self, every_seconds: float, renew: Callable[[], Awaitable[None]]) -> None:
        """Before each look, `renew` the leases of what runs here: it is not lost, even if the machine slept."""
        while True:
            try:
                await renew()
                await self.bury()
                await self.reconcile()
            except ImgsimError as error:
                log.warning("reconciling failed, trying again in %g s: %s", every_seconds, error)
            except Exception:
                log.exception("reconciling failed, trying again in %g s", every_seconds)
            await asyncio.sleep(every_seconds)

    async def _ring(self, bells: Sequence[Bell]) -> None:
        await self._jobs.enqueue(bells)
        for image in await self._images.mark_pending([bell.id for bell in bells]):
            self._events.publish(ImageEvent.of(image))
