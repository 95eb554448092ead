"""The door for hostile bytes: what an upload is, by its content alone, and the picture in it.

Decoders raise anything on hostile input, so ``read_image`` is the one place that catches ``Exception``
and the only one that calls them. What their own limits leave open (headers of millions of parts,
thousands of scans, arrays of millions of offsets) is refused before they see it.
"""

import asyncio
import ctypes
import functools
import hashlib
import io
import logging
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from PIL import AvifImagePlugin, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from imgsim.core.errors import BrokenImage, ImgsimError, TooManyPixels, UnsupportedImage
from imgsim.core.models import Inspection, Picture

BIG_PIXELS = 25_000_000
"""A decode that holds more pixels than this has its turn alone."""
MAX_READS = 200_000
"""Reads that Pillow's Python parsers may make: 50 MB of PNG in chunks of 8 KiB are 25,000. About 0.3 s."""
MAX_SCANS = 100
"""Scans of a JPEG of up to 25 MP, fewer above; encoders write about 10. As in libtiff. 2 s at worst."""
MAX_JPEG_MARKERS = 20_000
"""Segments of a JPEG; photos have 10 to 300."""
MAX_JPEG_HEADER = 8 * 1024 * 1024
"""Bytes before the first scan: Pillow joins EXIF segments in quadratic time, 12 s for 50 MB."""
MAX_TIFF_NUMBERS = 100_000
"""Numbers in one TIFF tag, that is strips: Pillow makes objects of them, 1 GB for 3 million."""
MAX_PNG_COMPRESSED = 100
"""Compressed metadata chunks of a PNG; Pillow inflates 1 MB of each."""
BAND_PIXELS = 1_000_000
"""Pixels that are converted at once, so that a large picture is never held twice."""

_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "image/heic"),
    **dict.fromkeys((b"mif1", b"msf1"), "image/heif"),
    **dict.fromkeys((b"avif", b"avis"), "image/avif"),
}
_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),  # BigTIFF; Pillow does not read the big-endian one
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # baseline, extended, progressive, and arithmetic coding
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # neither stuffing nor restart nor fill
_SPATIAL_EXTENTS = re.compile(rb"ispe\0{4}")  # ISO/IEC 23008-12, 6.5.3: width and height of an item, before any crop


def sniff(head: bytes) -> str | None:
    """The content type that the first 64 bytes of a file show, or None when it is not one read here."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[:2] == b"BM" and head[14:18] in {bytes((n, 0, 0, 0)) for n in (12, 40, 52, 56, 64, 108, 124)}:
        return "image/bmp"  # with the size of the second header: two letters alone are many a text
    if head[4:8] == b"ftyp":
        # Files of the general brand mif1 say among the compatible brands what is inside.
        compatible = head[16 : min(int.from_bytes(head[:4], "big"), 64)]
        brands = [head[8:12], *(compatible[at : at + 4] for at in range(0, len(compatible), 4))]
        found = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        return next((kind for kind in found if kind != "image/heif"), found[0]) if head[8:12] in _BRANDS else None
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


class _Upload(io.BytesIO):
    """The bytes for Pillow's parsers, which read in Python and would go on for minutes where a header never ends."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise BrokenImage("The image is split into more parts than a picture needs.")
        return super().read(size)


class _TiffFile(TiffImageFile):
    def load_end(self) -> None:
        """Pillow's own turns the picture at full size and parses every EXIF folder; neither is wanted here."""
        self._size = self.im.size


@functools.cache
def _heif_plugin() -> Callable[[BinaryIO], ImageFile.ImageFile]:
    import pillow_heif  # here, not above: libheif is 10 MB that most processes never use

    # One thread a picture: the pool is what runs in parallel. libheif's own limits stay on.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return pillow_heif.HeifImageFile


# The plugin itself instead of Image.open: it gives the size even where Image.open refuses it without saying.
_PLUGINS: dict[str, Callable[[], Callable[[BinaryIO], ImageFile.ImageFile]]] = {
    "image/jpeg": lambda: JpegImageFile,
    "image/png": lambda: PngImageFile,
    "image/webp": lambda: WebPImageFile,
    "image/gif": lambda: GifImageFile,
    "image/bmp": lambda: BmpImageFile,
    "image/tiff": lambda: _TiffFile,
    "image/heic": _heif_plugin,
    "image/heif": _heif_plugin,
    "image/avif": lambda: AvifImagePlugin.AvifImageFile,
}


def read_image(data: bytes, max_pixels: int, min_side: int, big: bool = True) -> Inspection | None:
    """Content type, upright size and first frame of `data`, reduced as far as both sides stay >= `min_side`.

    The picture is a C-contiguous, read-only array (stages share it). None: the decode is a big one and `big` is
    False. Raises ``UnsupportedImage``, ``TooManyPixels`` or ``BrokenImage``, never anything else.
    """
    content_type = sniff(data[:64])
    if content_type is None:
        what = "not an image of a format that is read here (JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC, AVIF)"
        raise UnsupportedImage(f"The file is {what if data else 'empty'}.")
    try:
        return _read(data, content_type, max_pixels, min_side, big)
    except ImgsimError:
        raise
    except Image.DecompressionBombError as error:  # a GIF frame larger than the picture that the header promised
        limit = f"the {max_pixels} that the setting upload.max_pixels allows"
        raise TooManyPixels(f"A frame of the picture has more pixels than {limit}.") from error.with_traceback(None)
    except Exception as error:
        name = content_type.removeprefix("image/").upper()
        message = f"The {name} image is damaged, incomplete or of a variant that is not read here."
        # Without its traceback, whose frames would keep the pixels alive as long as the error.
        raise BrokenImage(message) from error.with_traceback(None)


def _read(data: bytes, content_type: str, max_pixels: int, min_side: int, big: bool) -> Inspection | None:
    buffered, ahead = False, 0
    if content_type == "image/jpeg":
        buffered = _jpeg_is_buffered(data, max_pixels)
    elif content_type == "image/png":
        if sum(map(data.count, (b"iCCP", b"iTXt", b"zTXt"))) > MAX_PNG_COMPRESSED:
            raise BrokenImage("The PNG image has more compressed metadata than a picture needs.")
    elif content_type == "image/tiff":
        _check_tiff(data)
    elif content_type == "image/webp":  # the plugin makes two canvases before it says how large they are
        ahead = _check_pixels(*_webp_size(data), max_pixels)
    elif content_type in ("image/heic", "image/heif", "image/avif"):  # a crop (clap) hides what is decoded
        sizes = (struct.unpack_from(">II", data, box.end()) for box in _SPATIAL_EXTENTS.finditer(data))
        ahead = max((_check_pixels(width, height, max_pixels) for width, height in sizes), default=0)
    if ahead > BIG_PIXELS and not big:
        return None
    with closing(_PLUGINS[content_type]()(_Upload(data))) as image:
        width, height = image.size
        held = _check_pixels(width, height, max_pixels)
        if isinstance(image, TiffImageFile):  # libtiff holds a whole tile, however small the picture
            held = max(held, _check_pixels(image.tag_v2.get(322, 1), image.tag_v2.get(323, 1), max_pixels))
        drafted = image.draft("RGB", (min_side, min_side))  # JPEG only; never below the size asked for
        if drafted and not buffered:
            held = image.size[0] * image.size[1]
        if held > BIG_PIXELS and not big:
            return None
        image.load()
        if not drafted:
            width, height = image.size  # some containers know only now
            _check_pixels(width, height, max_pixels)
        turn = _orientation(image)
        small = _reduced_rgb(image, min_side)
        picture = np.asarray(small.transpose(_TURNS[turn]) if turn in _TURNS else small)
    if turn in (5, 6, 7, 8):
        width, height = height, width
    return Inspection(content_type, width, height, picture)


def _check_pixels(width: int, height: int, max_pixels: int) -> int:
    if width * height > max_pixels:
        limit = f"the {max_pixels} that the setting upload.max_pixels allows"
        raise TooManyPixels(f"The picture has {width} x {height} pixels, more than {limit}.")
    return width * height


def _jpeg_is_buffered(data: bytes, max_pixels: int) -> bool:
    """Whether libjpeg must hold all coefficients, 6 bytes a pixel: a JPEG that is progressive or of several scans."""
    at, markers, scans, pixels, frame, components = 2, 0, 0, 0, 0, 0
    while marker := _JPEG_MARKER.search(data, at):
        kind, start = marker[1][0], marker.end()
        at = start + int.from_bytes(data[start : start + 2], "big")
        markers += 1
        if kind == 0xD9:  # end of the image; what follows is no part of it
            return True
        if markers > MAX_JPEG_MARKERS or (start > MAX_JPEG_HEADER and not scans):
            raise BrokenImage("The JPEG image has more metadata than a picture needs.")
        if kind in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, start + 3)
            pixels = _check_pixels(width, height, max_pixels)
            frame, components = kind, data[start + 7]
        elif kind in range(0xC0, 0xD0) and kind not in (0xC4, 0xCC):
            raise BrokenImage("The image is of a kind of JPEG (lossless or hierarchical) that is not read here.")
        elif kind == 0xDA:
            scans += 1
            if scans > MAX_SCANS or (scans > 16 and scans * pixels > MAX_SCANS * BIG_PIXELS):
                raise BrokenImage("The JPEG image has more scans than a picture of its size needs.")
            if scans == 1 and frame not in (0xC2, 0xCA) and data[start + 2] == components:
                # Huffman codes need 2 bits for each block of 8 x 8. libjpeg would paint grey what is missing.
                if frame != 0xC9 and (len(data) - start) * 256 < pixels:
                    raise BrokenImage("The JPEG image is far shorter than the size in its header needs.")
                if data.rfind(b"\xff\xd9", at) >= 0:
                    return False
                break
    raise BrokenImage("The JPEG image is cut off before its end.")  # libjpeg may not ask when it has the last row


def _check_tiff(data: bytes) -> None:
    """Refuse tags of more numbers than strips of a picture need."""
    order, large = "<" if data[:2] == b"II" else ">", data[2] == 43
    (start,) = struct.unpack_from(order + ("Q" if large else "I"), data, 8 if large else 4)
    (count,) = struct.unpack_from(order + ("Q" if large else "H"), data, start)
    entry = struct.Struct(order + ("HHQ8x" if large else "HHI4x"))
    for index in range(min(count, MAX_READS)):
        _, kind, numbers = entry.unpack_from(data, start + (8 if large else 2) + index * entry.size)
        if numbers > MAX_TIFF_NUMBERS and kind not in (1, 2, 7):  # bytes and text stay one object
            raise BrokenImage(f"The TIFF image has a tag of more than {MAX_TIFF_NUMBERS} numbers.")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height in the header, as in RFC 9649."""
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    bits = int.from_bytes(data[21:25] if data[12:16] == b"VP8L" else data[26:30], "little")
    if data[12:16] == b"VP8L":
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return bits & 0x3FFF, bits >> 16 & 0x3FFF


def _orientation(image: Image.Image) -> int:
    try:
        tags = image.tag_v2 if isinstance(image, TiffImageFile) else image.getexif()
        return int(tags.get(0x0112, 1))
    except Exception:  # metadata that cannot be parsed does not make a picture that can be seen unusable
        return 1


def _reduced_rgb(image: Image.Image, min_side: int) -> Image.Image:
    """`image` as RGB, box-filtered by the largest whole factor that keeps both sides >= `min_side`.

    In bands, so that beside a large picture only a small one is held.
    """
    factor = max(1, min(image.size) // min_side)
    levels = _levels(image)
    if factor == 1:
        return _to_rgb(image, levels)
    width, height = image.size
    small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for top, band in _bands(image, factor):
        small.paste(_to_rgb(band, levels).reduce(factor), (0, top // factor))
    return small


def _bands(image: Image.Image, factor: int = 1) -> Iterator[tuple[int, Image.Image]]:
    width, height = image.size
    rows = max(1, BAND_PIXELS // (width * factor)) * factor
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(top + rows, height)))


def _levels(image: Image.Image) -> tuple[float, float] | None:
    """The values of black and white where a sample has more than 8 bits, or None where Pillow knows them.

    16 bits have a fixed range. 32-bit integers and floats have none: the narrowest usual one that holds all
    values, else their own.
    """
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    if image.mode not in ("I", "F"):
        return None
    low, high = np.inf, -np.inf
    for _, band in _bands(image):
        values = np.asarray(band, np.float64)
        values = values[np.isfinite(values)]
        low, high = min(low, values.min(initial=np.inf)), max(high, values.max(initial=-np.inf))
    usual = (limit for limit in (1.0, 255.0, 65535.0) if low >= 0 and high <= limit)
    return next(((0.0, limit) for limit in usual), (float(low), float(high)))


def _to_rgb(image: Image.Image, levels: tuple[float, float] | None) -> Image.Image:
    if levels:
        low, high = levels
        values = np.nan_to_num(np.asarray(image, np.float64), nan=low, posinf=high, neginf=low)
        scaled = np.clip((values - low) * (255.0 / ((high - low) or 1.0)), 0, 255).round().astype(np.uint8)
        return Image.fromarray(scaled).convert("RGB")
    if image.has_transparency_data:
        # On white, as a page would show it: cut-out products and logos then match photos on a white ground.
        rgba = image.convert("RGBA")
        ground = Image.new("RGB", image.size, "white")
        ground.paste(rgba, mask=rgba)
        return ground
    return image if image.mode == "RGB" else image.convert("RGB")


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _prepare_pillow(max_pixels: int) -> None:
    """What can only be set for the whole process: no limit below ours, and no word about hostile files on stderr."""
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the pool is what runs in parallel
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    for library in Path(PIL.__file__).parents[1].glob("pillow.libs/libtiff*"):  # Pillow's wheel, already loaded
        set_handler = ctypes.CDLL(str(library)).TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)


class ImageReader:
    """Decodes and hashes uploads in its own threads, so never on the event loop.

    `max_pixels` is width times height, `min_side` the pixels that neither side of a picture is reduced below (twice
    the model's input), `threads` None one for each core. Big decodes run one at a time, so that memory stays bounded.
    """

    def __init__(self, max_pixels: int, min_side: int, threads: int | None = None) -> None:
        self.max_pixels = max_pixels
        self.min_side = min_side
        self._pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, "imgsim-decode")
        self._big = ThreadPoolExecutor(1, "imgsim-decode-big")
        _prepare_pillow(max_pixels)

    async def inspect(self, file: BinaryIO) -> Inspection:
        """What `file` (read whole, from its start) is. Errors as ``read_image``. Use a file for one call at a time."""

        def read(big: bool) -> Inspection | None:
            file.seek(0)
            return read_image(file.read(), self.max_pixels, self.min_side, big)

        return await self._decode(read)

    async def decode(self, data: bytes) -> Picture:
        """The picture in `data`, as in ``read_image``."""
        found = await self._decode(lambda big: read_image(data, self.max_pixels, self.min_side, big))
        return found.picture

    async def sha256(self, file: BinaryIO) -> str:
        """Hexadecimal SHA-256 of all of `file`."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, _sha256, file)

    async def _decode(self, read: Callable[[bool], Inspection | None]) -> Inspection:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._pool, read, False)
        if found is None:
            found = await loop.run_in_executor(self._big, read, True)
        assert found is not None
        return found

    def close(self) -> None:
        """Take no more work and cancel what waits; a decode that runs ends in its thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._big.shutdown(wait=False, cancel_futures=True)
