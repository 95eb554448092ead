"""Scaled decoding costs no quality: the packaged model's vectors, and what they find, are those of the full decode.

The reference is the whole picture, upright, as RGB at full resolution, through the same embedder, which squashes it
with an antialiased bicubic filter. Colour profiles are applied in neither: all pictures count as sRGB.
"""

import asyncio
import io
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from imgsim.adapters.embedding.packaged import PackagedEmbedder
from imgsim.adapters.images import ImageReader
from imgsim.container import Container
from imgsim.core.models import Picture, Vectors
from imgsim.settings import Settings

LEAST_COSINE = 0.998
LEAST_OF_ALL = 0.995
"""For one photograph in a hundred: half a level of noise moves the vector of a black sweater here by .02."""
MOST_CHANGE = 0.002
"""Of precision@5 and of recall@1."""
PHOTOS = sorted((Path(__file__).parents[1] / "data").glob("**/*.jpg"))
EXACTLY_TWICE, THREE_MEGAPIXELS, TWELVE_MEGAPIXELS = 896, 1536, 3000
"""Pixels of the shorter side; JPEGs are decoded at 1/2, 1/2 and 1/4 of it, others reduced to 1/2, 1/3 and 1/6."""

Forms = dict[str, Callable[[Image.Image], bytes]]


class Paths:
    """The two ways from a file to a vector: as the application is wired, and by the full decode."""

    def __init__(self, reader: ImageReader, embedder: PackagedEmbedder) -> None:
        self.reader, self.embedder = reader, embedder

    async def scaled(self, files: Sequence[bytes]) -> Vectors:
        return await self.embedder.embed_images([await self.reader.decode(data) for data in files])

    async def full(self, files: Sequence[bytes]) -> Vectors:
        return await self.embedder.embed_images([await asyncio.to_thread(full_picture, data) for data in files])

    async def vectors(self, makers: Sequence[Callable[[], bytes]]) -> tuple[Vectors, Vectors]:
        """Of the scaled and of the full decode, ``(n, d)`` each. In groups: a picture of 17 MP has 51 MB."""

        async def both(make: Callable[[], bytes]) -> tuple[Vectors, Vectors]:
            files = [await asyncio.to_thread(make)]
            return await self.scaled(files), await self.full(files)

        found = [
            pair for at in range(0, len(makers), 2) for pair in await asyncio.gather(*map(both, makers[at : at + 2]))
        ]
        scaled, full = zip(*found, strict=True)
        return np.concatenate(scaled), np.concatenate(full)


@pytest.fixture(scope="module")
async def paths() -> AsyncIterator[Paths]:
    container = Container(settings=Settings())
    reader = container.reader()
    assert isinstance(reader, ImageReader)
    async with container.embedder() as embedder:
        yield Paths(reader, embedder)
    await reader.close()


def full_picture(data: bytes) -> Picture:
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            upright = Image.fromarray((np.asarray(upright) / 257).round().astype(np.uint8))
        return np.asarray(upright.convert("RGB"))


def photo(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def enlarged(image: Image.Image, shorter: int) -> Image.Image:
    """`image` with a shorter side of `shorter` pixels, and the grain that a camera's file of this size would have."""
    scale = shorter / min(image.size)
    large = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    grain = np.random.default_rng(1).integers(-3, 4, (large.height, large.width, 1), np.int16)
    return Image.fromarray(np.clip(np.asarray(large) + grain, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def jpeg(image: Image.Image, **options: Any) -> bytes:
    return encoded(image, "JPEG", quality=90, **options)


def deep_png(image: Image.Image) -> bytes:
    """16 bits a sample in three colours, which Pillow reads but does not write."""
    rows = np.asarray(image).astype(">u2") * 257
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", image.width, image.height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines, 1)),
        (b"IEND", b""),
    ]
    chunks = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def oriented(image: Image.Image, form: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, form, exif=exif, compress_level=1, method=0)


FORMS: Forms = {
    "jpeg": jpeg,
    "progressive jpeg": lambda image: jpeg(image, progressive=True),
    "jpeg without subsampling": lambda image: jpeg(image, subsampling=0),
    "grey jpeg": lambda image: jpeg(image.convert("L")),
    "cmyk jpeg": lambda image: jpeg(image.convert("CMYK")),
    "png": lambda image: encoded(image, "PNG", compress_level=1),
    "palette png": lambda image: encoded(image.quantize(256), "PNG", compress_level=1),
    "16-bit grey png": lambda image: encoded(
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG", compress_level=1
    ),
    "16-bit png": deep_png,
    "webp": lambda image: encoded(image, "WEBP", quality=85, method=0),
    "lossless webp": lambda image: encoded(image, "WEBP", lossless=True, quality=0, method=0),
    **{
        f"{form.lower()} of orientation {turn}": lambda image, form=form, turn=turn: oriented(image, form, turn)
        for form, turns in (("JPEG", range(1, 9)), ("PNG", (6,)), ("WEBP", (8,)))
        for turn in turns
    },
}


def cosines(one: Vectors, other: Vectors) -> Vectors:
    return np.sum(one * other, axis=1)


def check(one: Vectors, other: Vectors) -> None:
    found = np.sort(cosines(one, other))
    assert found[len(found) // 100] >= LEAST_COSINE, f"least {found[:5]}, mean {found.mean():.5f}"
    assert found[0] >= LEAST_OF_ALL, found[0]


async def test_every_photograph_as_it_is(paths: Paths) -> None:
    scaled, full = await paths.vectors([path.read_bytes for path in PHOTOS])
    assert cosines(scaled, full).min() >= LEAST_COSINE


@pytest.fixture(scope="module")
async def large(paths: Paths) -> tuple[Vectors, Vectors]:
    """Both vectors of every photograph as a JPEG of some 3 megapixels."""
    return await paths.vectors([lambda path=path: jpeg(enlarged(photo(path), THREE_MEGAPIXELS)) for path in PHOTOS])


async def test_every_photograph_as_a_large_jpeg(large: tuple[Vectors, Vectors]) -> None:
    check(*large)


@pytest.mark.parametrize("form", FORMS)
async def test_a_large_file_of_every_form(paths: Paths, form: str) -> None:
    some = PHOTOS[::50]
    check(
        *await paths.vectors([lambda path=path: FORMS[form](enlarged(photo(path), THREE_MEGAPIXELS)) for path in some])
    )


async def test_jpegs_of_a_camera_s_size(paths: Paths) -> None:
    some = PHOTOS[::20]
    check(*await paths.vectors([lambda path=path: jpeg(enlarged(photo(path), TWELVE_MEGAPIXELS)) for path in some]))


@pytest.mark.parametrize("form", ["jpeg", "webp"])
async def test_files_that_are_reduced_to_exactly_twice_the_input(paths: Paths, form: str) -> None:
    found = cosines(
        *await paths.vectors(
            [lambda path=path: FORMS[form](enlarged(photo(path), EXACTLY_TWICE)) for path in PHOTOS[::5]]
        )
    )
    assert found.min() >= LEAST_OF_ALL
    assert found.mean() >= 0.999


async def test_a_picture_whose_sides_no_factor_divides_is_not_moved(paths: Paths) -> None:
    def make(path: Path) -> bytes:
        return encoded(enlarged(photo(path), THREE_MEGAPIXELS).resize((3313, 2566)), "WEBP", quality=85, method=0)

    found = cosines(*await paths.vectors([lambda path=path: make(path) for path in PHOTOS[::25]]))
    assert found.min() >= LEAST_COSINE
    assert found.mean() >= 0.9994  # .9986 where the last of the boxes of five is filled up


async def test_what_is_found_is_the_same(paths: Paths, large: tuple[Vectors, Vectors]) -> None:
    labels = np.array([path.parent.name for path in PHOTOS])
    scaled, full = (precision_at_5(vectors[labels != "neardup"], labels[labels != "neardup"]) for vectors in large)
    assert full > 0.8
    assert abs(scaled - full) <= MOST_CHANGE, (scaled, full)

    originals = np.flatnonzero(labels == "neardup")
    copies = [(original, change) for original in originals for change in CHANGES]
    makers = [
        lambda original=original, change=change: jpeg(enlarged(change(photo(PHOTOS[original])), THREE_MEGAPIXELS))
        for original, change in copies
    ]
    own = np.array([original for original, _ in copies])
    found = [
        float((np.argmax(queries @ vectors.T, axis=1) == own).mean())
        for queries, vectors in zip(await paths.vectors(makers), large, strict=True)
    ]
    assert found[1] > 0.9
    assert abs(found[0] - found[1]) <= MOST_CHANGE, found


CHANGES: Sequence[Callable[[Image.Image], Image.Image]] = (
    lambda image: image.resize((image.width // 2, image.height // 2)),
    lambda image: image.crop((image.width // 10, image.height // 10, image.width, image.height)),
    lambda image: image.rotate(4, Image.Resampling.BICUBIC),
    ImageOps.mirror,
)


def precision_at_5(vectors: Vectors, labels: np.ndarray[Any, Any]) -> float:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -2)
    nearest = np.argsort(-scores, axis=1)[:, :5]
    return float((labels[nearest] == labels[:, None]).mean())
