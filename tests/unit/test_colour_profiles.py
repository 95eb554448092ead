"""Pictures of files with a colour profile are in sRGB; files without one, and with sRGB's own, stay bit by bit."""

import io
import itertools
import random
import time
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from imgsim.adapters.colour_profiles import MAX_PROFILE, transform_for
from imgsim.adapters.images import read_image
from imgsim.core.models import Picture
from tests.profiles import ADOBE_RGB, DISPLAY_P3, SRGB, cmyk_profile, grey_profile, in_srgb, matrix_profile, profile

pillow_heif.register_heif_opener()

P3 = matrix_profile(DISPLAY_P3)
ADOBE = matrix_profile(ADOBE_RGB, 2.19921875)
RED, BROWN = (230, 40, 30), (200, 100, 50)
KINDS = ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"]


def file_of(image: Image.Image, kind: str, icc: bytes | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    lossless = {"WEBP": {"lossless": True}, "TIFF": {}, "PNG": {}}.get(kind, {"quality": 100, "subsampling": "4:4:4"})
    image.save(out, kind, **{**lossless, **({"icc_profile": icc} if icc else {}), **options})
    return out.getvalue()


def read(data: bytes, min_side: int = 448) -> Picture:
    found = read_image(data, 10**8, min_side)
    assert found is not None
    return found.picture


def middle(picture: Picture) -> list[int]:
    return [int(level) for level in picture[picture.shape[0] // 2, picture.shape[1] // 2]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("icc", "primaries", "gamma"), [(P3, DISPLAY_P3, None), (ADOBE, ADOBE_RGB, 2.19921875)])
def test_wide_gamut_colours_become_those_of_srgb(kind: str, icc: bytes, primaries: Any, gamma: float | None) -> None:
    for colour in (RED, BROWN, (255, 255, 255), (0, 0, 0), (90, 90, 90)):
        shown = middle(read(file_of(Image.new("RGB", (64, 48), colour), kind, icc)))
        lossy = kind in ("JPEG", "HEIF", "AVIF")
        assert shown == pytest.approx(in_srgb(colour, primaries, gamma), abs=4 if lossy else 1)


def test_colours_that_srgb_has_come_back_as_they_were() -> None:
    """The way there by the profile's own inverse."""
    to_p3 = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(P3)), "RGB", "RGB", 1
    )
    before = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    after = read(file_of(to_p3.apply(Image.fromarray(before)), "PNG", P3))
    assert np.percentile(np.abs(after.astype(int) - before), 99) <= 3  # 8 bits are coarse where it is dark
    assert np.abs(after.astype(int) - before).mean() < 0.6


@pytest.mark.parametrize(
    ("kind", "size"),
    [*itertools.product(KINDS, [(64, 48)]), *itertools.product(["JPEG", "PNG"], [(1000, 700), (900, 900)])],
)
def test_srgb_by_any_name_and_no_profile_at_all_are_the_same_bits(kind: str, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(noise)
    plain = read(file_of(image, kind))
    for icc in (matrix_profile(SRGB), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()):
        assert np.array_equal(read(file_of(image, kind, icc)), plain)


def test_large_pictures_are_converted_after_they_are_reduced() -> None:
    data = file_of(Image.new("RGB", (2000, 1500), BROWN), "PNG", P3)
    picture = read(data)
    assert picture.shape == (500, 667, 3)
    assert middle(picture) == pytest.approx(in_srgb(BROWN, DISPLAY_P3), abs=1)
    assert not picture.flags.writeable
    assert picture.flags.c_contiguous


def test_what_is_clear_stays_white_and_what_is_not_is_converted() -> None:
    image = Image.new("RGBA", (64, 48), (*BROWN, 255))
    image.paste((0, 0, 0, 0), (0, 0, 32, 48))
    picture = read(file_of(image, "PNG", P3))
    assert [int(level) for level in picture[20, 10]] == [255, 255, 255]
    assert [int(level) for level in picture[20, 50]] == pytest.approx(in_srgb(BROWN, DISPLAY_P3), abs=1)


def test_palettes_too() -> None:
    image = Image.new("RGB", (64, 48), BROWN).quantize(4)
    assert middle(read(file_of(image, "PNG", P3))) == pytest.approx(in_srgb(BROWN, DISPLAY_P3), abs=1)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "1"])
def test_greys_by_their_curve(mode: str) -> None:
    values = {"L": 128, "LA": (128, 255), "I;16": 128 * 257, "1": 1}
    picture = read(file_of(Image.new(mode, (64, 48), values[mode]), "PNG", grey_profile(1.8)))
    linear = 1.0 if mode == "1" else (128 / 255) ** 1.8
    assert middle(picture) == pytest.approx([round((1.055 * linear ** (1 / 2.4) - 0.055) * 255)] * 3, abs=1)


def test_a_grey_picture_with_a_profile_of_colours_uses_it_for_greys() -> None:
    picture = read(file_of(Image.new("L", (64, 48), 30), "JPEG", matrix_profile(SRGB, 1.0)))
    assert middle(picture) == pytest.approx(in_srgb((30, 30, 30), SRGB, 1.0), abs=1)


def ink(amounts: Any) -> tuple[float, float, float]:
    """A press whose cyan is nearly black, whatever Pillow thinks of it."""
    cyan, magenta, yellow, black = amounts
    light = 100 * (1 - 0.9 * cyan) * (1 - 0.4 * magenta) * (1 - 0.1 * yellow) * (1 - black)
    return light, 60 * magenta * (1 - cyan), 80 * yellow * (1 - cyan)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize("size", [(64, 48), (1000, 700)])
def test_inks_by_their_press(kind: str, size: tuple[int, int]) -> None:
    press = cmyk_profile(ink)
    for inks, lab in (((0, 0, 0, 0), (100, 0, 0)), ((255, 0, 0, 0), (10, 0, 0)), ((0, 0, 255, 0), (90, 0, 80))):
        to_srgb = ImageCms.buildTransform(
            ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB", 1
        )
        levels = round(lab[0] * 2.55), lab[1] + 128, lab[2] + 128
        expected = to_srgb.apply(Image.new("LAB", (1, 1), levels)).getpixel((0, 0))
        data = file_of(Image.new("CMYK", size, inks), kind, press)
        assert middle(read(data)) == pytest.approx(expected, abs=14)  # black point compensation makes cyan darker
        plain = read(file_of(Image.new("CMYK", size, inks), kind))
        assert middle(plain) == pytest.approx([255 - level for level in inks[:3]], abs=2)


@pytest.mark.parametrize("size", [(64, 48), (1000, 700)])
def test_lab_needs_no_profile(size: tuple[int, int]) -> None:
    for lab, expected in (
        ((255, 128, 128), (255, 255, 255)),
        ((138, 209, 195), (254, 0, 0)),
        ((0, 128, 128), (0, 0, 0)),
    ):
        picture = read(file_of(Image.new("LAB", size, lab), "TIFF"))
        assert middle(picture) == pytest.approx(expected, abs=14)  # a step of Lab is up to 5 of blue


WRONG = {
    "empty": b"",
    "no profile": b"not a profile" * 50,
    "cut off": P3[:300],
    "the head alone": P3[:128],
    "a link": profile(b"RGB ", {}, device=b"link"),
    "no tags": profile(b"RGB ", {}),
    "inks for a picture without": cmyk_profile(ink),
    "greys for a picture of colours": grey_profile(1.8),
    "too large": P3 + bytes(MAX_PROFILE),
    "too many tags": P3[:128] + b"\0\0\x10\0" + P3[132:],
    "a program": profile(b"RGB ", {b"D2B0": bytes(100), **{bytes([65 + n] * 4): bytes(8) for n in range(5)}}),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_profile_that_does_not_fit_is_passed_over(case: str) -> None:
    image = Image.new("RGB", (64, 48), BROWN)
    assert middle(read(file_of(image, "TIFF", WRONG[case]))) == [*BROWN]


@pytest.mark.parametrize("seed", range(4))
def test_damaged_profiles_neither_crash_nor_hang(seed: int) -> None:
    dice = random.Random(seed)
    whole, mode = [(P3, "RGB"), (cmyk_profile(ink, 3), "CMYK"), (grey_profile(1.8), "L"), (ADOBE, "RGB")][seed]
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(dice.choice((1, 2, 8, 40))):
            at = dice.randrange(128 if dice.random() < 0.8 else 0, len(damaged))
            damaged[at] = dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
        image = Image.new(mode, (32, 32))
        image.info["icc_profile"] = bytes(damaged[: dice.choice((len(damaged), dice.randrange(len(damaged))))])
        started = time.thread_time()
        transform = transform_for(image)
        if transform is not None:
            assert transform.apply(image).size == (32, 32)
        assert time.thread_time() - started < 2
