"""Uploads into the services of this process, as a bulk import makes them."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import msgspec

from imgsim.core.events import EventBus
from imgsim.core.ports import ImageRepository
from imgsim.core.services import IngestService, LifecycleService
from imgsim.core.shown import shown

Json = dict[str, Any]

_SECONDS_BETWEEN_LOOKS = 2.0


class ServiceUploads:
    """Images are as they go over the wire. When `leaves` says so, nobody waits for an image any longer."""

    def __init__(
        self,
        ingest: IngestService,
        lifecycle: LifecycleService,
        images: ImageRepository,
        events: EventBus,
        leaves: Callable[[], bool] = lambda: False,
    ) -> None:
        self._ingest = ingest
        self._lifecycle = lifecycle
        self._images = images
        self._events = events
        self._leaves = leaves

    async def upload(
        self,
        source: Path | BinaryIO,
        filename: str,
        collection: str,
        tags: Sequence[str],
        metadata: Json,
        on_copy: str,
    ) -> Json:
        with source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source) as file:
            image = await self._ingest.upload(file, filename, collection, tags, metadata, on_copy=on_copy)
        return as_json(image)

    async def update(self, image_id: str, tags: Sequence[str], metadata: Json) -> Json:
        return as_json(await self._lifecycle.update(UUID(image_id), tags, metadata))

    async def wait(self, image_id: str) -> Json:
        """The image once it is done or in error."""
        with self._events.listen(UUID(image_id)) as listener:
            while True:
                image = await self._images.get(UUID(image_id))
                if image.at_rest or self._leaves():
                    return as_json(image)
                with contextlib.suppress(TimeoutError):  # look again now and then: no event may be the last hope
                    await asyncio.wait_for(listener.next(), _SECONDS_BETWEEN_LOOKS)


def as_json(answer: Any) -> Json:
    """`answer` as it goes over the wire."""
    built: Json = msgspec.to_builtins(shown(answer))
    return built
