"""Embedded colour profiles (ICC.1:2010) to sRGB, by LittleCMS in Pillow.

It runs in this process on hostile bytes. So what it is given is bounded in size and kind: no programs of profiles
(the ``D2B`` tags of version 4.3), no links from device to device, no lists of named colours. The rest becomes a table
or a matrix of fixed size before a pixel is touched, so no profile is slower than another.
"""

import functools
import io
import struct

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE = 4 * 1024 * 1024
"""Bytes; those of presses have up to 2.7 MB, those of cameras and screens a few KB."""
_MOST_TAGS = 100
_KEPT = 8
"""Transforms that are kept, with their profiles. One takes 2 ms to make, 25 from CMYK; photographs share a few."""
_STEPS_OFF = 2
"""A profile that moves no colour further than this, of 255 levels, is one of the many that are called sRGB."""

_DEVICES = (b"scnr", b"mntr", b"prtr", b"spac")
_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_GREY = ("1", "L", "LA", "La", "I", "F")


def transform_for(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """What takes the pixels of `image` to sRGB; None where they are sRGB, or nobody knows, or the profile is broken.

    Its ``input_mode`` is RGB, L, CMYK or LAB.
    """
    if image.mode == "LAB":  # its numbers say which colours they are, whatever profile is embedded
        return _lab()
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or (mode := _input_mode(profile)) is None:
        return None
    grey = image.mode in _GREY or image.mode.startswith("I;16")
    if (mode == "CMYK") != (image.mode == "CMYK") or (mode == "L" and not grey):
        return None
    return _made(profile, mode)


def _input_mode(profile: bytes) -> str | None:
    """Pillow's mode for the colours of `profile`; None for what is not to be tried."""
    if not 132 <= len(profile) <= MAX_PROFILE or profile[36:40] != b"acsp" or profile[12:16] not in _DEVICES:
        return None
    (tags,) = struct.unpack_from(">I", profile, 128)
    if tags > _MOST_TAGS or len(profile) < 132 + 12 * tags:
        return None
    if any(profile[at : at + 3] == b"D2B" for at in range(132, 132 + 12 * tags, 12)):
        return None
    return _MODES.get(profile[16:20])


@functools.lru_cache(_KEPT)
def _made(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        transform = _transform(ImageCms.ImageCmsProfile(io.BytesIO(profile)), mode)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if mode == "CMYK":
        return transform
    probe = _probe().convert(mode)
    there = np.asarray(transform.apply(probe), np.int16) - np.asarray(probe.convert("RGB"), np.int16)
    return None if np.abs(there).max() <= _STEPS_OFF else transform


@functools.cache
def _lab() -> ImageCms.ImageCmsTransform:
    return _transform(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB")


def _transform(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    """White becomes white and black becomes black; what sRGB cannot show becomes the nearest that it can."""
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)


def _probe() -> Image.Image:
    """9 x 9 x 9 colours, and so 9 and more greys."""
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3))
