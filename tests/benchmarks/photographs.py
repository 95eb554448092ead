"""Real photographs in any number and size, each with bytes of its own."""

import io
import random
from pathlib import Path

from PIL import Image

DATA = Path(__file__).parents[1] / "data"


def make_photographs(count: int, size: tuple[int, int], seed: int = 1) -> list[bytes]:
    """`count` JPEGs of `size`: random crops of the photographs in tests/data, the same for the same seed."""
    sources = sorted((DATA / "classes").rglob("*.jpg")) + sorted((DATA / "neardup").glob("*.jpg"))
    chance = random.Random(seed)
    made = []
    for number in range(count):
        with Image.open(sources[number % len(sources)]) as source:
            share = chance.uniform(0.7, 1.0)
            width, height = int(source.width * share), int(source.height * share)
            left, top = chance.randint(0, source.width - width), chance.randint(0, source.height - height)
            picture = source.convert("RGB").resize(
                size, Image.Resampling.BICUBIC, (left, top, left + width, top + height)
            )
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=90, comment=f"{seed} {number}".encode())  # no two are the same
        made.append(out.getvalue())
    return made
