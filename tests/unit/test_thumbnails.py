"""Thumbnails: their sizes and their pixels, the stage that makes them, and the service that gives them out."""

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from typing import BinaryIO
from uuid import UUID

import numpy as np
import pytest
from PIL import Image as Pillow

from imgsim.adapters.database.memory import MemoryImageRepository
from imgsim.adapters.embedding.colour import ColourEmbedder
from imgsim.adapters.images import ImageReader
from imgsim.adapters.objects.memory import MemoryObjectStore
from imgsim.adapters.vectors.qdrant_memory import qdrant_memory_vector_index
from imgsim.core.errors import BrokenImage, InvalidRequest, ObjectNotFound, Unavailable
from imgsim.core.models import Image, Picture, new_image_id, original_key
from imgsim.core.services import ThumbnailService
from imgsim.core.services.ingest import new_image
from imgsim.core.thumbnails import CONTENT_TYPE, LARGE, SMALL, ThumbnailSize, size_of
from imgsim.pipeline.stage import Ports, StageContext
from imgsim.plugins.thumbnail import ThumbnailStage
from imgsim.thumbnails import encode_thumbnail


def test_a_size_has_a_name_or_so_many_pixels() -> None:
    sizes = {"small": SMALL, "large": LARGE, "1": SMALL, "256": SMALL, "257": LARGE, "640": LARGE, "999999999": LARGE}
    assert {text: size_of(text) for text in sizes} == sizes


@pytest.mark.parametrize("text", ["", "0", "-1", "medium", "Small", "1.5", "+3", "٣", "1e3", "0x10", "9" * 10, " 8"])
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match="small, large or a number of pixels"):
        size_of(text)


@pytest.mark.parametrize(
    ("size", "small", "large"),
    [
        ((4000, 3000), (256, 192), (640, 480)),
        ((3000, 4000), (192, 256), (480, 640)),
        ((640, 480), (256, 192), (640, 480)),
        ((300, 200), (256, 171), (300, 200)),
        ((256, 256), (256, 256), (256, 256)),
        ((30, 20), (30, 20), (30, 20)),
        ((1, 1), (1, 1), (1, 1)),
        ((60_000, 3), (256, 1), (640, 1)),
    ],
)
def test_no_image_is_enlarged_and_none_loses_its_shape(
    size: tuple[int, int], small: tuple[int, int], large: tuple[int, int]
) -> None:
    assert (SMALL.fit(*size), LARGE.fit(*size)) == (small, large)


def halves(width: int, height: int) -> Picture:
    """Red above, blue below."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, :, 0] = picture[height // 2 :, :, 2] = 255
    return picture


def near(pixel: Picture, colour: tuple[int, int, int]) -> bool:
    """WebP is lossy."""
    return int(np.abs(pixel.astype(int) - colour).max()) <= 8


def opened(content: bytes | str) -> Pillow.Image:
    assert isinstance(content, bytes)
    image = Pillow.open(io.BytesIO(content))
    assert image.format == "WEBP"
    return image


@pytest.mark.parametrize("size", [(256, 192), (900, 600), (37, 41), (1, 1)])
def test_a_thumbnail_shows_the_picture(size: tuple[int, int]) -> None:
    shown = opened(encode_thumbnail(halves(900, 600), *size, effort=0))
    assert (shown.size, shown.mode) == (size, "RGB")
    if size != (1, 1):
        assert near(np.asarray(shown)[0, 0], (254, 0, 0))
        assert near(np.asarray(shown)[-1, -1], (0, 0, 254))


# with an image in a store


class Store(MemoryObjectStore):
    """Counts what is read, and fails as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []
        self.reading = asyncio.Event()
        self.full = False
        self.signs = False

    async def put(self, key: str, source: BinaryIO, content_type: str, durable: bool = True) -> int:
        if self.full:
            raise Unavailable("The disk is full.")
        assert (content_type, durable) == (CONTENT_TYPE, False) or key.startswith("originals/")
        return await super().put(key, source, content_type, durable)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        self.read.append(key)
        self.reading.set()
        async for chunk in super().get(key, start, length):
            yield chunk

    async def presign_get(self, key: str, seconds: int, filename: str, download: bool = False) -> str | None:
        return f"https://store/{key}?{filename}" if self.signs else None


@dataclass
class Bench:
    objects: Store
    images: MemoryImageRepository
    reader: ImageReader
    service: ThumbnailService

    async def add(self, data: bytes, filename: str = "cat.png") -> Image:
        found = await self.reader.inspect(io.BytesIO(data))
        image = new_image(
            new_image_id(), data.hex()[:64], len(data), found, collection="c", filename=filename, tags=[], metadata={}
        )
        await self.objects.put(original_key(image.id), io.BytesIO(data), image.content_type)
        return await self.images.add(image)

    def context(self, image: Image, picture: Picture | None = None) -> StageContext:
        ports = Ports(self.objects, self.images, qdrant_memory_vector_index(), ColourEmbedder())
        return StageContext(image, ports, self.reader.decode, picture)

    async def kept(self, image: Image, size: ThumbnailSize) -> bytes:
        return b"".join([chunk async for chunk in self.objects.get(size.key(image.id))])


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    objects, images, reader = Store(), MemoryImageRepository(), ImageReader(10**8, 448)
    service = ThumbnailService(objects=objects, images=images, reader=reader, encode=encode_thumbnail, url_seconds=60)
    yield Bench(objects, images, reader, service)
    await reader.close()


def png(picture: Picture, **options: object) -> bytes:
    out = io.BytesIO()
    Pillow.fromarray(picture).save(out, "PNG", **options)  # type: ignore[arg-type]
    return out.getvalue()


async def test_the_stage_makes_the_small_one_and_says_both_sizes(bench: Bench) -> None:
    image = await bench.add(png(halves(1200, 800)))
    found = await ThumbnailStage().run(bench.context(image))
    assert found == {"small": [256, 171], "large": [640, 427]}
    assert opened(await bench.kept(image, SMALL)).size == (256, 171)
    first = await bench.kept(image, SMALL)
    await ThumbnailStage().run(bench.context(image))
    assert await bench.kept(image, SMALL) == first
    with pytest.raises(ObjectNotFound):
        await bench.kept(image, LARGE)


async def test_it_is_upright(bench: Bench) -> None:
    out, exif = io.BytesIO(), Pillow.Exif()
    exif[0x0112] = 6  # the camera was turned: the right side is up
    Pillow.fromarray(np.ascontiguousarray(np.rot90(halves(600, 900)))).save(out, "JPEG", exif=exif)
    image = await bench.add(out.getvalue())
    assert (image.width, image.height) == (600, 900)
    await ThumbnailStage().run(bench.context(image))
    for content in (await bench.kept(image, SMALL), await bench.service.get(image, LARGE)):
        shown = np.asarray(opened(content))
        assert shown.shape[0] > shown.shape[1]
        assert near(shown[5, 5], (254, 0, 0))
        assert near(shown[-5, -5], (0, 0, 254))


async def test_a_strip_keeps_its_shape_and_what_is_clear_is_white(bench: Bench) -> None:
    picture = np.zeros((20, 4000, 4), np.uint8)
    picture[:, 2000:] = (0, 0, 255, 255)
    image = await bench.add(png(picture))
    shown = opened(await bench.service.get(image, LARGE))
    assert shown.size == (640, 3)
    assert near(np.asarray(shown)[1, 5], (255, 255, 255))
    assert near(np.asarray(shown)[1, -5], (0, 0, 254))


async def test_a_picture_that_cannot_be_encoded_does_not_fail_the_image(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    image = await bench.add(png(halves(30, 20)))
    ctx = bench.context(replace(image, width=20_000, height=20_000), np.zeros((3, 2, 2), np.uint8))
    assert await ThumbnailStage().run(ctx) is None
    await bench.objects.delete(original_key(image.id))
    assert await ThumbnailStage().run(bench.context(image)) is None
    assert str(image.id) in caplog.text


async def test_a_store_that_is_away_fails_the_attempt_as_always(bench: Bench) -> None:
    image = await bench.add(png(halves(30, 20)))
    bench.objects.full = True
    with pytest.raises(Unavailable, match="disk is full"):
        await ThumbnailStage().run(bench.context(image))


async def test_what_is_missing_is_made_of_the_original_once_for_all_and_kept(bench: Bench) -> None:
    image = await bench.add(png(halves(900, 900)))
    shown = await asyncio.gather(*(bench.service.get(image, LARGE) for _ in range(20)))
    assert len(set(shown)) == 1
    assert opened(shown[0]).size == (640, 640)  # of 900, not of the 450 that stages share
    assert bench.objects.read.count(original_key(image.id)) == 1
    assert await bench.kept(image, LARGE) == shown[0]
    assert await bench.service.get(image, LARGE) == shown[0]
    assert bench.objects.read.count(original_key(image.id)) == 1


async def test_one_who_leaves_does_not_take_it_from_the_others(bench: Bench) -> None:
    image = await bench.add(png(halves(900, 900)))
    first, second = (asyncio.create_task(bench.service.get(image, LARGE)) for _ in range(2))
    await bench.objects.reading.wait()
    first.cancel()
    assert opened(await second).size == (640, 640)
    assert first.cancelled()


async def test_an_image_that_is_small_anyway_has_one_thumbnail(bench: Bench) -> None:
    image = await bench.add(png(halves(200, 100)))
    assert await bench.service.get(image, LARGE) == await bench.service.get(image, SMALL)
    assert await bench.kept(image, SMALL)
    with pytest.raises(ObjectNotFound):
        await bench.kept(image, LARGE)


@pytest.mark.parametrize("left", [0.0, 0.5, "zeros"])
async def test_what_a_power_cut_has_left_is_made_anew(bench: Bench, left: float | str) -> None:
    image = await bench.add(png(halves(400, 300)))
    whole = await bench.service.get(image, SMALL)
    assert isinstance(whole, bytes)
    torn = bytes(len(whole)) if isinstance(left, str) else whole[: int(left * len(whole))]
    await bench.objects.put(SMALL.key(image.id), io.BytesIO(torn), CONTENT_TYPE, durable=False)
    assert await bench.service.get(image, SMALL) == whole
    assert await bench.kept(image, SMALL) == whole


async def test_a_presigned_url_is_given_only_of_what_is_there(bench: Bench) -> None:
    image = await bench.add(png(halves(400, 300)), "a cat.with dots.png")
    bench.objects.signs = True
    assert opened(await bench.service.get(image, SMALL)).size == (256, 192)
    assert await bench.service.get(image, SMALL) == f"https://store/{SMALL.key(image.id)}?a cat.with dots.webp"


async def test_nothing_is_kept_of_an_image_that_was_deleted_meanwhile(bench: Bench) -> None:
    image = await bench.add(png(halves(400, 300)))
    await bench.images.entomb(image.id)
    assert opened(await bench.service.get(image, SMALL)).size == (256, 192)
    assert not await bench.objects.exists(SMALL.key(image.id))


async def test_a_full_disk_hides_no_thumbnail(bench: Bench) -> None:
    image = await bench.add(png(halves(400, 300)))
    bench.objects.full = True
    assert opened(await bench.service.get(image, SMALL)).size == (256, 192)


async def test_of_a_broken_or_missing_original_there_is_none_and_the_next_may_try_again(bench: Bench) -> None:
    data = png(halves(400, 300))
    image = await bench.add(data)
    await bench.objects.put(original_key(image.id), io.BytesIO(data[:100]), "image/png")
    with pytest.raises(BrokenImage):
        await bench.service.get(image, SMALL)
    await bench.objects.delete(original_key(image.id))
    with pytest.raises(ObjectNotFound):
        await bench.service.get(image, SMALL)
    await bench.objects.put(original_key(image.id), io.BytesIO(data), "image/png")
    assert opened(await bench.service.get(image, SMALL)).size == (256, 192)


def test_the_key_is_below_what_is_deleted_with_the_image() -> None:
    image_id = UUID("01900000-0000-7000-8000-0000000000ff")
    assert SMALL.key(image_id) == f"derived/ff/{image_id}/thumbnail-small.webp"
