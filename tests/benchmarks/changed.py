"""Changed copies of photographs, as people make them: eleven ways, each with parameters from the file's name."""

import io
import random
from collections.abc import Callable, Iterator, Mapping

from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

Change = Callable[[Image.Image, random.Random], Image.Image]


def _cut(share: float) -> Change:
    def cut(picture: Image.Image, chance: random.Random) -> Image.Image:
        width, height = round(picture.width * (1 - share)), round(picture.height * (1 - share))
        left, top = chance.randint(0, picture.width - width), chance.randint(0, picture.height - height)
        return picture.crop((left, top, left + width, top + height))

    return cut


def _halved(picture: Image.Image, chance: random.Random) -> Image.Image:
    return picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)


def _turned(picture: Image.Image, chance: random.Random) -> Image.Image:
    return picture.rotate(chance.choice((-1, 1)) * chance.uniform(2, 6), Image.Resampling.BICUBIC)


def _coloured(picture: Image.Image, chance: random.Random) -> Image.Image:
    picture = ImageEnhance.Color(picture).enhance(chance.uniform(0.5, 1.5))
    picture = ImageEnhance.Brightness(picture).enhance(chance.uniform(0.8, 1.2))
    return ImageEnhance.Contrast(picture).enhance(chance.uniform(0.8, 1.2))


def _watermarked(picture: Image.Image, chance: random.Random) -> Image.Image:
    font = ImageFont.load_default(max(12, picture.width // 9))
    layer = Image.new("RGBA", picture.size)
    middle = (picture.width // 2, picture.height // 2)
    ImageDraw.Draw(layer).text(middle, "SAMPLE PHOTO", (255, 255, 255, 170), font, "mm")
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


def _several(picture: Image.Image, chance: random.Random) -> Image.Image:
    return _halved(_coloured(_cut(0.1)(picture, chance), chance), chance)


CHANGES: Mapping[str, tuple[Change, Mapping[str, object]]] = {
    "resize": (_halved, {"format": "JPEG", "quality": 90}),
    "jpeg30": (lambda picture, chance: picture, {"format": "JPEG", "quality": 30}),
    "crop10": (_cut(0.1), {"format": "JPEG", "quality": 90}),
    "crop20": (_cut(0.2), {"format": "JPEG", "quality": 90}),
    "rotate": (_turned, {"format": "JPEG", "quality": 90}),
    "colour": (_coloured, {"format": "JPEG", "quality": 90}),
    "watermark": (_watermarked, {"format": "JPEG", "quality": 90}),
    "hflip": (lambda picture, chance: ImageOps.mirror(picture), {"format": "JPEG", "quality": 90}),
    "png": (lambda picture, chance: picture, {"format": "PNG"}),
    "webp": (lambda picture, chance: picture, {"format": "WEBP", "quality": 80}),
    "combo": (_several, {"format": "JPEG", "quality": 50}),
}


def changed(photograph: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """How the photograph was changed, and the file that came of it. `name` decides by how much."""
    with Image.open(io.BytesIO(photograph)) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    for way, (change, options) in CHANGES.items():
        out = io.BytesIO()
        change(picture, random.Random(f"{name} {way}")).save(out, **options)  # type: ignore[arg-type]
        yield way, out.getvalue()
