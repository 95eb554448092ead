"""Real photographs in any number and size, each with bytes of its own."""

import io
import itertools
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

DATA = Path(__file__).parents[1] / "data"

Box = tuple[int, int, int, int]

DISTINCT = 60
"""Pictures that a load is made of: more would take minutes to make, and neither decoder nor model learns from them."""


def parse_size(text: str) -> tuple[int, int]:
    """``640x480``."""
    width, height = text.split("x")
    return int(width), int(height)


def make_photographs(count: int, size: tuple[int, int], seed: int = 1) -> list[bytes]:
    """`count` JPEGs of `size`: random crops of the photographs in tests/data, the same for the same seed."""
    sources = sorted((DATA / "classes").rglob("*.jpg")) + sorted((DATA / "neardup").glob("*.jpg"))
    chance = random.Random(seed)
    chosen = [sources[number % len(sources)] for number in range(count)]
    boxes = [_crop(path, chance) for path in chosen]

    def make(number: int) -> bytes:
        with Image.open(chosen[number]) as source:
            picture = source.convert("RGB").resize(size, Image.Resampling.BICUBIC, boxes[number])
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=90, comment=f"{seed} {number}".encode())  # no two are the same
        return out.getvalue()

    with ThreadPoolExecutor() as pool:  # Pillow works outside Python's lock
        return list(pool.map(make, range(count)))


def fresh(photographs: Sequence[bytes], name: str) -> Iterator[bytes]:
    """The photographs again and again without end, each time with bytes of its own, by a comment in the JPEG.

    Use each `name` once for a server, else it has the bytes already and does nothing.
    """
    for number in itertools.count():
        comment = f"{name} {number}".encode()
        data = memoryview(photographs[number % len(photographs)])
        yield b"".join((data[:2], b"\xff\xfe", (len(comment) + 2).to_bytes(2), comment, data[2:]))


def _crop(path: Path, chance: random.Random) -> Box:
    with Image.open(path) as source:
        share = chance.uniform(0.7, 1.0)
        width, height = int(source.width * share), int(source.height * share)
        left, top = chance.randint(0, source.width - width), chance.randint(0, source.height - height)
    return left, top, left + width, top + height
