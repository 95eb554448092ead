"""What a stage is, and what it is given."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

from imgsim.core.errors import Unavailable
from imgsim.core.models import STATE_OF_STAGE, Image, Picture, Point, Vector, derived_prefix, original_key
from imgsim.core.ports import Adapter, Embedder, ImageRepository, ObjectStore, VectorIndex
from imgsim.core.threads import compute

P = ParamSpec("P")
T = TypeVar("T")

_SECONDS_TO_ANSWER = 3.0


@runtime_checkable
class Stage(Protocol):
    """One step that every image goes through.

    May also have ``after`` and ``before``: names of stages that it must follow or precede; and ``quick``,
    true for one that takes milliseconds: on an image's first attempt it does not show in the image's row
    or its events, which spares a statement. A stage can run twice for one image (a worker may die), and
    must then have the same outcome.
    """

    name: str

    async def run(self, ctx: "StageContext") -> Any:
        """Return something JSON can hold, which lands in ``features[name]``, or None for nothing.

        May raise ``ImageRejected`` (the image ends ``done``, not searchable, with the reason) or
        ``RetryLater``; any other exception fails the attempt. Must not block the event loop.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports a stage may use."""

    objects: ObjectStore
    images: ImageRepository
    vectors: VectorIndex
    embedder: Embedder

    async def answer(self) -> bool:
        """Whether all of them answer now."""
        adapters: Sequence[Adapter] = (self.objects, self.images, self.vectors, self.embedder)
        try:
            async with asyncio.timeout(_SECONDS_TO_ANSWER):
                await asyncio.gather(*(adapter.ping() for adapter in adapters))
        except (Unavailable, TimeoutError):
            return False
        return True


class StageContext:
    """One attempt on one image, as the stages see it."""

    def __init__(
        self, image: Image, ports: Ports, decode: Callable[[bytes], Awaitable[Picture]], picture: Picture | None
    ) -> None:
        self.image = image
        """The image's row, as it was when this stage began, or the last one before it that was noted there."""
        self.ports = ports
        self.results: dict[str, Any] = {}
        """What earlier stages returned, by stage name."""
        self.embedding: Vector | None = None
        """Set by the stage ``embed``: ``(dimensions,)`` float32 of unit length."""
        self.indexed: Point | None = None
        """Set by the stage ``index``: what it wrote; tags and metadata that change later are written in the end."""
        self._decode = decode
        self._picture = picture
        self._data: bytes | None = None
        self._lock = asyncio.Lock()

    async def data(self) -> bytes:
        """The image's bytes as uploaded, read once."""
        if self._data is None:
            self._data = await self._read()
        return self._data

    async def _read(self) -> bytes:
        return b"".join([chunk async for chunk in self.ports.objects.get(original_key(self.image.id))])

    async def picture(self) -> Picture:
        """The decoded picture, ``(h, w, 3)`` uint8 sRGB, upright, decoded once.

        Large images come scaled down, both sides at least twice the model's input where the image
        has that many pixels (strips beyond 16:1 squashed). Do not write into it: all stages share it.
        """
        async with self._lock:
            if self._picture is None:
                # Not by ``data``: the bytes need not be kept as long as the attempt lasts.
                self._picture = await self._decode(self._data or await self._read())
            return self._picture

    async def compute(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function`, which takes milliseconds, in a thread; see ``core.threads.compute``."""
        return await compute(function, *args, **kwargs)

    def object_key(self, name: str) -> str:
        """The key under which a stage keeps an object of its own for this image; deleted with it."""
        return derived_prefix(self.image.id) + name


def stage_names(stage: Stage, relation: str) -> tuple[str, ...]:
    """`relation` is ``after`` or ``before``; a stage may leave either out, or give one name as a string."""
    names = getattr(stage, relation, ())
    return (names,) if isinstance(names, str) else tuple(names or ())


def is_noted(stage: Stage, attempt: int) -> bool:
    """Whether the row says that `stage` runs. In later attempts it does of all stages: the one under which a
    process died before is then known."""
    return attempt > 1 or stage.name in STATE_OF_STAGE or not getattr(stage, "quick", False)
