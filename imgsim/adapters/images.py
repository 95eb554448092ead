"""The door for hostile bytes: what an upload is, by its content alone, and the picture in it.

Decoders raise anything on hostile input, so ``read_image`` is the one place that catches ``Exception``
and the only one that calls them. What their own limits leave open (headers of millions of parts,
thousands of scans, arrays of millions of offsets) is refused before they see it, see ``image_headers``.
"""

import ctypes
import functools
import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
from PIL import AvifImagePlugin, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from imgsim.adapters.batcher import Batcher
from imgsim.adapters.image_headers import BIG_PIXELS, check_header, check_pixels, sniff
from imgsim.adapters.image_pixels import reduced_rgb
from imgsim.core.errors import BrokenImage, ImgsimError, TooManyPixels, UnsupportedImage
from imgsim.core.models import Inspection, Picture

__all__ = ["ImageReader", "read_image", "sniff"]

MAX_READS = 200_000
"""Reads that Pillow's Python parsers may make: 50 MB of PNG in chunks of 8 KiB are 25,000. About 0.3 s."""
_MOST_WAITING = 1024
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
    buffered, ahead = check_header(data, content_type, max_pixels)
    if ahead > BIG_PIXELS and not big:
        return None
    with closing(_PLUGINS[content_type]()(_Upload(data))) as image:
        width, height = image.size
        held = check_pixels(width, height, max_pixels)
        if isinstance(image, TiffImageFile):  # libtiff holds a whole tile, however small the picture
            held = max(held, check_pixels(image.tag_v2.get(322, 1), image.tag_v2.get(323, 1), max_pixels))
        drafted = image.draft("RGB", (min_side, min_side))  # JPEG only; never below the size asked for
        if drafted and not buffered:
            held = image.size[0] * image.size[1]
        if held > BIG_PIXELS and not big:
            return None
        image.load()
        if not drafted:
            width, height = image.size  # some containers know only now
            check_pixels(width, height, max_pixels)
        turn = _orientation(image)
        small = reduced_rgb(image, min_side, drafted[1][2:] if drafted else None)
        picture = np.asarray(small.transpose(_TURNS[turn]) if turn in _TURNS else small)
    if turn in (5, 6, 7, 8):
        width, height = height, width
    return Inspection(content_type, width, height, picture)


def _orientation(image: Image.Image) -> int:
    try:
        tags = image.tag_v2 if isinstance(image, TiffImageFile) else image.getexif()
        return int(tags.get(0x0112, 1))
    except Exception:  # metadata that cannot be parsed does not make a picture that can be seen unusable
        return 1


def _call(functions: Sequence[Callable[[], Any]]) -> list[Any]:
    return [function() for function in functions]


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
    the model's input), `threads` 0 one for each core. Big decodes run one at a time, so that memory stays bounded.
    What is urgent, as somebody waits for the answer, goes first. ``Overloaded`` when too many wait.
    """

    content_types = frozenset(_PLUGINS)

    def __init__(self, max_pixels: int, min_side: int, threads: int = 0) -> None:
        self.max_pixels = max_pixels
        self.min_side = min_side
        self._pool = Batcher[Callable[[], Any], Any](_call, threads, 1, _MOST_WAITING, "image reader")
        self._big = Batcher[Callable[[], Any], Any](_call, 1, 1, _MOST_WAITING, "reader of big images")
        _prepare_pillow(max_pixels)

    async def inspect(self, file: BinaryIO, urgent: bool = False) -> Inspection:
        """What `file` (read whole, from its start) is. Errors as ``read_image``. Use a file for one call at a time."""

        def read(big: bool) -> Inspection | None:
            file.seek(0)
            return read_image(file.read(), self.max_pixels, self.min_side, big)

        return await self._decode(read, urgent)

    async def decode(self, data: bytes, min_side: int = 0, urgent: bool = False) -> Picture:
        """The picture in `data`, as in ``read_image``; `min_side` where it is more than the reader's own."""
        min_side = max(min_side, self.min_side)
        found = await self._decode(lambda big: read_image(data, self.max_pixels, min_side, big), urgent)
        return found.picture

    async def sha256(self, file: BinaryIO) -> str:
        """Hexadecimal SHA-256 of all of `file`."""
        (digest,) = await self._pool.submit([lambda: _sha256(file)])
        return str(digest)

    async def _decode(self, read: Callable[[bool], Inspection | None], urgent: bool) -> Inspection:
        (found,) = await self._pool.submit([lambda: read(False)], urgent)
        if found is None:
            (found,) = await self._big.submit([lambda: read(True)], urgent)
        assert isinstance(found, Inspection)
        return found

    async def close(self) -> None:
        """Take no more work, and fail what waits; returns when the decodes that run have ended."""
        await self._pool.close()
        await self._big.close()
