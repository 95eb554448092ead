"""From one deployment to another, as from a data directory to a cluster: objects, rows, vectors."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import BinaryIO, cast
from uuid import UUID

import numpy as np

from imgsim.core.errors import ImgsimError, NotSearchable, SettingsError
from imgsim.core.models import Image, ImageFilter, ImageState, Point, Vector, derived_prefix, original_key
from imgsim.core.ports import ImageRepository, ObjectStore, VectorIndex
from imgsim.core.thumbnails import CONTENT_TYPE
from imgsim.settings import Settings, mask_url

_PAGE = 100
_AT_ONCE = 4
"""Images on their way: as many large ones as an S3 store has room for."""
_IN_MEMORY = 1 << 20
_CLOSE = 1e-5
"""How far a component may be off after its way through two indexes: both normalise in float32."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The three parts that keep something."""

    objects: ObjectStore
    images: ImageRepository
    vectors: VectorIndex


@dataclass(slots=True)
class TransferReport:
    """Images by what became of them, and what both sides hold in the end: not the same, where the target works."""

    copied: int = 0
    already_there: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Id and reason."""
    stopped: bool = False
    """Before every image was looked at."""
    bytes: int = 0
    source: Mapping[str, int] = field(default_factory=dict)
    """Images by state, and vectors by model."""
    target: Mapping[str, int] = field(default_factory=dict)

    @property
    def seen(self) -> int:
        return self.copied + self.already_there + len(self.failed)

    @property
    def complete(self) -> bool:
        """Every image of the source, by its id, is in the target."""
        return not self.failed and not self.stopped


async def transfer(
    source: Storage, target: Storage, on_progress: Callable[[TransferReport], None], stop: asyncio.Event
) -> TransferReport:
    """Copy every image of `source` to `target`, under its id; both must rest meanwhile.

    The row comes last, but for its groups of copies and dismissals, which every repeat brings: what has one in the
    target is whole, and a repeat goes on where this one ended. Bytes are read back and compared by SHA-256, vectors by
    value. What was not done or in error arrives as ``pending`` and is processed there.
    """
    report = TransferReport()
    for model in await source.vectors.models():
        if (dimensions := await _dimensions(source, model)) is not None:
            await target.vectors.open_collection(model, dimensions)
    async for images in _pages(source.images):
        if stop.is_set():
            report.stopped = True
            break
        there = await _whole(target, images)
        report.already_there += len(there)
        await _copy_page(source, target, [image for image in images if image.id not in there], report)
        await target.images.keep_copy_notes(await source.images.copy_notes([image.id for image in images]))
        on_progress(report)
    live = await source.vectors.live()
    if live is not None and await target.vectors.live() is None and live in await target.vectors.models():
        await target.vectors.set_live(live)
    report.source, report.target = await _holdings(source), await _holdings(target)
    return report


def check_apart(source: Settings, target: Settings) -> None:
    """``SettingsError`` where both keep something in the same place: a copy onto itself."""
    for part in ("objects", "database", "vectors"):
        url = target.part_url(part)
        if source.part_url(part).rstrip("/") == url.rstrip("/"):
            raise SettingsError(f"Source and target have the same {part}.url ({mask_url(url)}).")


async def count_images(images: ImageRepository) -> int:
    return sum((await images.counts()).values())


async def _pages(images: ImageRepository) -> AsyncIterator[Sequence[Image]]:
    before: UUID | None = None
    while page := await images.list(ImageFilter(), _PAGE, before):
        yield page
        before = page[-1].id


async def _dimensions(source: Storage, model: str) -> int | None:
    """Those of the first vector there is."""
    async with aclosing(source.vectors.ids(model)) as ids:  # type: ignore[type-var]
        async for image_id in ids:
            vectors = await source.vectors.fetch(model, [image_id])
            if image_id in vectors:
                return len(vectors[image_id])
    return None


async def _whole(target: Storage, images: Sequence[Image]) -> set[UUID]:
    """Those of `images` that `target` has: the row, and the vector where that can be searched for."""
    there = await target.images.get_many([image.id for image in images])
    whole = set(there)
    for model, group in _by_model(there.values()).items():
        ids = [image.id for image in group]
        whole -= set(ids) - (await _fetch(target.vectors, model, ids)).keys()
    return whole


def _by_model(images: Iterable[Image]) -> Mapping[str, Sequence[Image]]:
    """The searchable ones."""
    groups: dict[str, list[Image]] = {}
    for image in images:
        if image.searchable and image.embedding is not None:
            groups.setdefault(image.embedding.model, []).append(image)
    return groups


async def _copy_page(source: Storage, target: Storage, images: Sequence[Image], report: TransferReport) -> None:
    missing = await _copy_vectors(source, target, images)
    turn = asyncio.Semaphore(_AT_ONCE)

    async def copy(image: Image) -> None:
        async with turn:
            try:
                report.bytes += await _copy_objects(source.objects, target.objects, image)
                resting = image.at_rest and image.id not in missing
                stored = await target.images.add(image if resting else _pending(image))
                if stored.duplicate:
                    await _take_back(target, image.id)
            except ImgsimError as error:
                report.failed.append((str(image.id), error.message))
                return
        if stored.duplicate:
            report.failed.append((str(image.id), f"The target has these bytes already, as {stored.id}."))
        else:
            report.copied += 1

    await asyncio.gather(*(copy(image) for image in images))


def _pending(image: Image) -> Image:
    states = {**image.states, ImageState.PENDING: datetime.now(UTC)}
    return replace(image, state=ImageState.PENDING, stage=None, embedding=None, states=states)


async def _take_back(target: Storage, image_id: UUID) -> None:
    """Remove what was copied of an image whose row `target` has refused."""
    await target.vectors.delete([image_id])
    keys = [info.key async for info in target.objects.list(derived_prefix(image_id))]
    for key in (*keys, original_key(image_id)):
        await target.objects.delete(key)


async def _copy_vectors(source: Storage, target: Storage, images: Sequence[Image]) -> set[UUID]:
    """Returns the searchable images whose vector the source does not have."""
    missing: set[UUID] = set()
    for model, group in _by_model(images).items():
        ids = [image.id for image in group]
        vectors = await _fetch(source.vectors, model, ids)
        missing |= set(ids) - vectors.keys()
        if not vectors:
            continue
        points = [Point.of(image, vectors[image.id]) for image in group if image.id in vectors]
        await target.vectors.upsert(model, points)
        arrived = await target.vectors.fetch(model, ids)
        for point in points:
            if point.id not in arrived or not np.allclose(arrived[point.id], point.vector, atol=_CLOSE):
                raise ImgsimError(f"The vector of {point.id} did not arrive as it was sent.")
    return missing


async def _fetch(index: VectorIndex, model: str, ids: Sequence[UUID]) -> Mapping[UUID, Vector]:
    """None where the index has no collection of `model`."""
    try:
        return await index.fetch(model, ids)
    except NotSearchable:
        return {}


async def _copy_objects(source: ObjectStore, target: ObjectStore, image: Image) -> int:
    copied = await _copy_object(source, target, original_key(image.id), image.content_type, image.sha256)
    async for info in source.list(derived_prefix(image.id)):
        copied += await _copy_object(source, target, info.key, _content_type(info.key), None)
    return copied


def _content_type(key: str) -> str:
    """What a store serves an object of a stage as; it does not say what it was told."""
    return CONTENT_TYPE if key.endswith(".webp") else "application/octet-stream"


async def _copy_object(
    source: ObjectStore, target: ObjectStore, key: str, content_type: str, sha256: str | None
) -> int:
    """Returns the bytes copied. `sha256` None: whatever the source has."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spooled:
        file = cast("BinaryIO", spooled)
        sent = await _digest(source, key, file)
        if sha256 not in (None, sent):
            raise ImgsimError("The bytes in the source do not have the SHA-256 of their row.")
        size = await target.put(key, file, content_type)
    if await _digest(target, key) != sent:
        raise ImgsimError("The bytes did not arrive as they were sent.")
    return size


async def _digest(store: ObjectStore, key: str, into: BinaryIO | None = None) -> str:
    digest = hashlib.sha256()
    async with aclosing(store.get(key)) as chunks:
        async for chunk in chunks:
            await asyncio.to_thread(digest.update, chunk)
            if into is not None:
                await asyncio.to_thread(into.write, chunk)
    return digest.hexdigest()


async def _holdings(storage: Storage) -> Mapping[str, int]:
    counts = await storage.images.counts()
    unfinished = sum(count for state, count in counts.items() if state not in (ImageState.DONE, ImageState.ERROR))
    images = {"done": counts[ImageState.DONE], "error": counts[ImageState.ERROR], "unfinished": unfinished}
    vectors = {f"vectors {model}": await storage.vectors.count(model) for model in await storage.vectors.models()}
    return images | vectors
