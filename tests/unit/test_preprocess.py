"""Preprocess against open_clip's own transform."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from imgsim.adapters.embedding.preprocess import Preprocess, middle

transforms = pytest.importorskip("open_clip.transform")

SIZES = [(480, 640), (640, 481), (64, 64), (37, 391), (391, 37), (65, 64), (1, 1), (3, 2), (127, 255), (96, 48)]
CONFIGS: list[dict[str, Any]] = [
    {"size": size, "resize_mode": mode, "interpolation": interpolation, "fill_color": 7 if mode == "longest" else 0}
    for size in (64, (48, 96), (97, 61))
    for mode in ("shortest", "longest", "squash")
    for interpolation in ("bicubic", "bilinear")
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: "-".join(map(str, config.values())))
def test_equals_open_clip(config: dict[str, Any]) -> None:
    whole = transforms.PreprocessCfg(**config)
    preprocess = Preprocess.of(vars(whole))
    transform = transforms.image_transform_v2(whole, is_train=False)
    random = np.random.default_rng(2)
    for height, width in SIZES:
        picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        fitted = preprocess.fit(picture)
        assert fitted.shape == (preprocess.height, preprocess.width, 3)
        normalised = (fitted / np.float32(255) - np.array(whole.mean, np.float32)) / np.array(whole.std, np.float32)
        assert_allclose(normalised.transpose(2, 0, 1), transform(Image.fromarray(picture)).numpy(), atol=1e-6)


def test_a_side_that_shrinks_to_nothing_is_an_error() -> None:
    preprocess = Preprocess.of(vars(transforms.PreprocessCfg(size=64, resize_mode="longest")))
    with pytest.raises(ValueError, match="height and width must be > 0"):
        preprocess.fit(np.zeros((1, 1000, 3), np.uint8))


def test_the_middle_of_a_long_picture() -> None:
    line = np.arange(100, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    assert middle(line)[0, :, 0].tolist() == list(range(42, 58))
