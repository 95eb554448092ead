"""What imgsim and an embedder process say to each other over ``/encode``.

Decoded pictures go as a body of ``application/x-imgsim-pixels``: for each picture its height and its width, both as
little-endian uint32, then its pixels, row after row, 3 bytes each. So the embedder sees exactly the array that the
caller has, and neither side spends time on it (ms of CPU for 640 x 480, to write and to read: raw 0.4 and 0.0, TIFF
1.1 and 1.2, BMP 1.8 and 1.8, lossless WebP 14 and 5, PNG 20 and 10; of 0.9 MB raw the last two leave 0.3 and 0.4).
A reader of image files would moreover reduce a large picture once more.
"""

import re
import struct
from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from imgsim.core.errors import BrokenImage, EmbeddingFailed, InvalidRequest
from imgsim.core.models import Picture

PIXELS = "application/x-imgsim-pixels"
VECTORS = "application/octet-stream"
"""Little-endian float32, row after row."""
MODEL_HEADER = "X-Imgsim-Model"
PREPROCESSING_HEADER = "X-Imgsim-Preprocessing"
URGENT = {"Priority": "u=1"}
"""The header of a request that somebody waits for (RFC 9218)."""
INT8 = "+int8"
"""Ends ``preprocessing`` where int8 computes."""
MOST_ITEMS = 64
"""Pictures or texts in one request."""
LARGEST_BODY = 64 * 1024 * 1024
"""Bytes: 22 megapixels. The reader of uploads gives a model of 224 pixels at most 6."""

_SIZE = struct.Struct("<II")
_LONGEST = 32


def longest_side(input_size: int) -> int:
    """Pixels that a side of a picture has at most, where the model's input has `input_size`.

    What the reader of uploads gives: 16 times the side that it does not reduce below, which is twice the input, and
    448 at least. Beyond, filters of Pillow take memory of their own: 700 MB for 22,000,000 x 1 pixels, 20 GB for
    1 x 22,000,000.
    """
    return _LONGEST * max(input_size, 224)


def is_urgent(priority: str) -> bool:
    """Whether a ``Priority`` header asks for more than the usual urgency, which is 3: 0 to 2, the first first."""
    return re.search(r"(?:^|[\s,])u=[0-2](?:$|[\s,;])", priority) is not None


def without_precision(preprocessing: str) -> str:
    """`preprocessing` of the same vectors whatever computes them: int8 serves only where its gate found them to be
    interchangeable with those of fp32."""
    return preprocessing.removesuffix(INT8)


class Description(msgspec.Struct, frozen=True):
    """The model behind ``/encode``, as the port Embedder has it."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=65_536)]
    preprocessing: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    input_size: Annotated[int, msgspec.Meta(ge=1, le=65_536)]
    supports_text: bool


def pack(pictures: Sequence[Picture]) -> bytes:
    """`pictures` as one body. ``EmbeddingFailed`` where it would be larger than an embedder takes."""
    size = sum(_SIZE.size + picture.nbytes for picture in pictures)
    if size > LARGEST_BODY:
        raise EmbeddingFailed(f"The picture has {size} bytes, more than the {LARGEST_BODY} that an embedder takes.")
    return b"".join(part for picture in pictures for part in (_SIZE.pack(*picture.shape[:2]), picture.tobytes()))


def unpack(body: bytes | bytearray, longest: int) -> list[Picture]:
    """The pictures in `body`: views of it.

    ``InvalidRequest`` for none or more than 64, ``BrokenImage`` where the sizes and the bytes do not fit,
    ``EmbeddingFailed`` for a picture with a side of more than `longest` pixels.
    """
    pictures: list[Picture] = []
    at = 0
    while at < len(body):
        if len(pictures) == MOST_ITEMS:
            raise InvalidRequest(f"One request takes 1 to {MOST_ITEMS} pictures, not more.")
        pixels = at + _SIZE.size
        if len(body) < pixels:
            raise BrokenImage("The body ends within the size of a picture.")
        height, width = _SIZE.unpack_from(body, at)
        at = pixels + height * width * 3
        if not height * width or at > len(body):
            raise BrokenImage(f"The body does not have the pixels of a picture of {width} x {height}.")
        if max(height, width) > longest:
            raise EmbeddingFailed(f"A picture has {width} x {height} pixels; the model takes sides of up to {longest}.")
        pictures.append(np.frombuffer(body, np.uint8, height * width * 3, pixels).reshape(height, width, 3))
    if not pictures:
        raise InvalidRequest("The body is empty; it must have at least one picture.")
    return pictures
