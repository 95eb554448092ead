"""The SIMD resizer against Pillow, which takes its place where there is no wheel."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgsim import resize as module
from imgsim.resize import resize

PHOTOGRAPHS = sorted((Path(__file__).parents[1] / "data" / "classes").rglob("*.jpg"))[::6]


@pytest.mark.skipif(module.simd is None, reason="no wheel of cykooz-resizer for this machine")
def test_both_resizers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in PHOTOGRAPHS]
    fast = [resize(picture, 224, 200) for picture in pictures]
    monkeypatch.setattr(module, "simd", None)
    for one, picture in zip(fast, pictures, strict=True):
        other = resize(picture, 224, 200)
        assert one.shape == other.shape == (200, 224, 3)
        difference = np.abs(one.astype(int) - other)
        assert difference.max() <= 16
        assert difference.mean() < 0.5
