"""The door for hostile bytes: what is decoded, how it looks, and what is refused, in time and memory."""

import asyncio
import csv
import functools
import hashlib
import io
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from imgsim.adapters import images
from imgsim.adapters.images import ImageReader, read_image, sniff
from imgsim.core.errors import BrokenImage, ImgsimError, TooManyPixels, UnsupportedImage
from imgsim.core.models import Inspection, Picture

LIMIT, SIDE = 100_000_000, 448
DATA = Path(__file__).parents[1] / "data"
PHOTOS = sorted(DATA.glob("**/*.jpg"))
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "image/jpeg": ("JPEG", {"quality": 95}),
    "image/png": ("PNG", {}),
    "image/webp": ("WEBP", {"quality": 95}),
    "image/gif": ("GIF", {}),
    "image/bmp": ("BMP", {}),
    "image/tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "image/heic": ("HEIF", {"quality": 95}),
    "image/avif": ("AVIF", {"quality": 95, "speed": 10}),
}
LOSSLESS = ("image/png", "image/bmp", "image/tiff")
QUARTERS = np.array([[[220, 30, 30], [30, 200, 30]], [[30, 30, 210], [240, 240, 60]]], np.uint8)
QUARTERS = QUARTERS.repeat(48, axis=0).repeat(64, axis=1)
"""96 x 128: red and green above blue and yellow, so that every turn and every swap of channels shows."""


def encode(picture: Picture, kind: str, mode: str = "RGB", **options: Any) -> bytes:
    pillow_heif.register_heif_opener()
    name, usual = FORMATS[kind]
    out = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(out, name, **{**usual, **options})
    return out.getvalue()


def inspect(data: bytes, max_pixels: int = LIMIT, min_side: int = SIDE) -> Inspection:
    found = read_image(data, max_pixels, min_side)
    assert found is not None
    return found


def difference(one: Picture, other: Picture) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


@functools.cache
def valid() -> dict[str, bytes]:
    noise = np.random.default_rng(7).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    photo = np.asarray(Image.fromarray(noise).resize((64, 48), Image.Resampling.BICUBIC))
    files = {kind: encode(photo, kind) for kind in FORMATS}
    files["progressive"] = encode(photo, "image/jpeg", progressive=True)
    files["cmyk"] = encode(photo, "image/jpeg", "CMYK")
    files["palette"] = encode(photo, "image/png", "P", transparency=3)
    files["lossless webp"] = encode(photo, "image/webp", "RGBA", lossless=True)
    files["raw tiff"] = encode(photo, "image/tiff", compression=None)
    files["jpeg tiff"] = encode(photo, "image/tiff", compression="jpeg")
    return files


# what is decoded


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_is_known_by_its_content_and_shows_its_picture(kind: str) -> None:
    found = inspect(encode(QUARTERS, kind))
    assert (found.content_type, found.width, found.height) == (kind, 128, 96)
    picture = found.picture
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    assert difference(picture, QUARTERS) <= (0 if kind in LOSSLESS else 4)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "image/avif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "image/heic"),
        (b"\0\0\0\x14ftypmsf1\0\0\0\0msf1", "image/heif"),
        (b"\0\0\0\x14ftypisom\0\0\0\0avif", None),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"BM is how this text begins, and no bitmap", None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", None),
        (b"<!doctype html>", None),
        (b"%PDF-1.7", None),
        (b"PK\3\4", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_sniff(head: bytes, kind: str | None) -> None:
    assert sniff(head) == kind


@pytest.mark.parametrize("kind", ["image/jpeg", "image/png", "image/webp", "image/tiff"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_gives_the_same_upright_picture(kind: str, turn: int) -> None:
    back = {**images._TURNS, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}.get(turn)
    stored = Image.fromarray(QUARTERS)
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"tiffinfo": {274: turn}} if kind == "image/tiff" else {"exif": exif}
    data = encode(np.asarray(stored.transpose(back) if back is not None else stored), kind, **options)
    found = inspect(data)
    assert (found.width, found.height) == (128, 96)
    assert difference(found.picture, QUARTERS) <= (0 if kind in LOSSLESS else 4)


def test_damaged_exif_does_not_make_the_picture_unusable() -> None:
    assert inspect(encode(QUARTERS, "image/jpeg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")).width == 128


@pytest.mark.parametrize(
    ("kind", "mode", "tolerance"),
    [
        *(("image/png", mode, limit) for mode, limit in [("RGBA", 0), ("P", 45)]),
        *(("image/tiff", mode, limit) for mode, limit in [("RGBA", 0), ("CMYK", 1), ("P", 45), ("LAB", 12)]),
        ("image/jpeg", "CMYK", 4),
    ],
)
def test_colour_modes(kind: str, mode: str, tolerance: float) -> None:
    if mode == "LAB":
        pytest.importorskip("PIL.ImageCms")
        data = tiff_of(to_lab(QUARTERS))
    else:
        data = encode(QUARTERS, kind, mode)
    assert difference(inspect(data).picture, QUARTERS) <= tolerance


def to_lab(picture: Picture) -> Image.Image:
    from PIL import ImageCms

    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    turned = ImageCms.applyTransform(Image.fromarray(picture), lab)
    assert turned is not None
    return turned


def tiff_of(image: Image.Image, kind: str = "TIFF", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


RAMP = np.repeat(np.linspace(0, 1, 256)[None], 8, axis=0)
GREY = np.repeat((RAMP * 255).round().astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("values", "form"),
    [
        ((RAMP * 65535).astype("<u2"), "PNG"),
        ((RAMP * 65535).astype("<u2"), "TIFF"),
        ((RAMP * 65535).astype(">u2"), "TIFF"),
        ((RAMP * 65535).astype(np.int32), "TIFF"),
        ((RAMP * 3e6 - 1e6).astype(np.int32), "TIFF"),
        (RAMP.astype(np.float32), "TIFF"),
        ((RAMP * 255).astype(np.float32), "TIFF"),
        ((RAMP * 7e30 - 1e30).astype(np.float32), "TIFF"),
        ((RAMP * 255).round().astype(np.uint8), "PNG"),
    ],
)
def test_deep_and_grey_samples_keep_their_range(values: np.ndarray[Any, Any], form: str) -> None:
    assert difference(inspect(tiff_of(Image.fromarray(values), form)).picture, GREY) <= 1


def test_values_that_are_no_numbers_are_black_or_white() -> None:
    values = np.where(np.arange(256) % 3 == 0, np.nan, RAMP).astype(np.float32)
    values[0, 1:3] = np.inf, -np.inf
    picture = inspect(tiff_of(Image.fromarray(values), "TIFF")).picture
    assert picture[0, 1].tolist() == [255] * 3
    assert picture[0, :4:3].max() == 0


@pytest.mark.parametrize("mode", ["LA", "1", "RGBA", "P"])
def test_transparency_shows_white(mode: str) -> None:
    black = Image.new("RGBA", (8, 8), (0, 0, 0, 255))
    black.paste((0, 0, 0, 0), (0, 0, 4, 8))
    options = {"transparency": 0} if mode == "P" else {}
    if mode == "P":
        black = Image.fromarray(np.repeat([[0] * 4 + [1] * 4], 8, axis=0).astype(np.uint8), "L").convert("P")
        black.putpalette([0, 0, 0, 0, 0, 0])
    elif mode == "1":
        black = Image.fromarray(np.repeat([[255] * 4 + [0] * 4], 8, axis=0).astype(np.uint8)).convert("1")
    else:
        black = black.convert(mode)
    picture = inspect(tiff_of(black, "PNG", **options)).picture
    assert (picture[:, :4] == 255).all()
    assert (picture[:, 4:] == 0).all()


def test_the_first_frame_of_an_animation_is_the_picture() -> None:
    other = [Image.new("RGB", (128, 96), "white")] * 3
    for kind in ("GIF", "WEBP", "PNG", "AVIF", "TIFF"):
        data = tiff_of(Image.fromarray(QUARTERS), kind, save_all=True, append_images=other)
        assert difference(inspect(data).picture, QUARTERS) <= 6, kind


@pytest.mark.parametrize("kind", ["image/jpeg", "image/png", "image/webp", "image/tiff", "image/bmp"])
def test_a_large_picture_is_reduced_but_never_below_the_side_asked_for(kind: str) -> None:
    large = np.asarray(Image.fromarray(QUARTERS).resize((1000, 700)))
    found = inspect(encode(large, kind), min_side=100)
    assert (found.width, found.height) == (1000, 700)
    assert 100 <= min(found.picture.shape[:2]) < 200
    height, width = found.picture.shape[:2]
    box = Image.fromarray(large).resize((width, height), Image.Resampling.BOX)
    assert difference(found.picture, np.asarray(box)) <= 4


@pytest.mark.parametrize("side", [None, SIDE])
def test_drafted_photos_look_like_fully_decoded_ones(side: int | None) -> None:
    differences = []
    for path in PHOTOS[::2]:
        with Image.open(path) as photo:
            full = photo.convert("RGB")
        # The photos are smaller than twice 448, so half their own side stands for it where a draft is wanted.
        smallest = side or min(full.size) // 2
        picture = inspect(path.read_bytes(), min_side=smallest).picture
        assert min(picture.shape[:2]) >= min(smallest, *full.size)
        target = (smallest // 2, smallest // 2)
        drafted = Image.fromarray(picture).resize(target, Image.Resampling.BICUBIC)
        differences.append(difference(np.asarray(drafted), np.asarray(full.resize(target, Image.Resampling.BICUBIC))))
    assert max(differences) < 5  # of 255, for the smallest photo, where a draft of 120 pixels becomes 60
    assert np.mean(differences) < 1.5


def test_labels_name_every_photo_and_its_source() -> None:
    with open(DATA / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(DATA / row["path"] for row in rows) == PHOTOS
    assert all(row["source"] and row["licence"] for row in rows)


# what is refused

# The reader sets this for the process, but pytest starts every test with filters of its own.
pytestmark = pytest.mark.filterwarnings("ignore::Warning:PIL.TiffImagePlugin", "ignore::Warning:PIL.Image")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, pixels: bytes, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def tiff(tags: dict[int, tuple[int, int, int]], tail: bytes, following: int = 0) -> bytes:
    usual = {256: (4, 1, 10), 257: (4, 1, 10), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    usual |= {273: (4, 1, 256), 278: (4, 1, 10), 279: (4, 1, 100)} if 322 not in tags else {}
    entries = sorted((usual | tags).items())
    folder = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + folder + struct.pack("<I", following)
    return head.ljust(256, b"\0") + tail


def resized_jpeg(width: int, height: int, kind: str = "image/jpeg") -> bytes:
    data = valid()[kind]
    at = data.index(b"\xff\xc2" if kind == "progressive" else b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def patched(kind: str, at: int | bytes, new: bytes, skip: int = 0) -> bytes:
    data = valid()[kind]
    start = (data.index(at) if isinstance(at, bytes) else at) + skip
    return data[:start] + new + data[start + len(new) :]


def scan_bomb(scans: int) -> bytes:
    data = encode(np.full((3000, 3000), 128, np.uint8), "image/jpeg", "L", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * scans + b"\xff\xd9"


MEGABYTE = zlib.compress(bytes(1_000_000), 9)
SCREEN = 13 + 768  # header and colours of a GIF
HOSTILE: dict[str, tuple[type[ImgsimError] | None, Callable[[], bytes]]] = {
    "jpeg of 60000 x 60000": (TooManyPixels, lambda: resized_jpeg(60000, 60000)),
    "jpeg shorter than its size": (BrokenImage, lambda: resized_jpeg(9000, 9000)),
    "progressive jpeg of 98 MP in 2 kB": (None, lambda: resized_jpeg(9900, 9900, "progressive")),
    "jpeg of 5000 scans": (BrokenImage, lambda: scan_bomb(5000)),
    "jpeg of 12 million comments": (BrokenImage, lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 12_000_000),
    "jpeg of 20 MB of fill": (BrokenImage, lambda: b"\xff\xd8" + b"\xff" * 20_000_000 + valid()["image/jpeg"][2:]),
    "jpeg of 50 MB of EXIF": (
        BrokenImage,
        lambda: b"\xff\xd8" + (b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)) * 780 + valid()["image/jpeg"][2:],
    ),
    "lossless jpeg": (BrokenImage, lambda: valid()["image/jpeg"].replace(b"\xff\xc0", b"\xff\xc3")),
    "png of 60000 x 60000": (TooManyPixels, lambda: png(60000, 60000, bytes(1000))),
    "png shorter than its size": (BrokenImage, lambda: png(9999, 9999, bytes(1000))),
    "png with too many pixels behind": (None, lambda: png(10, 10, bytes(50_000_000))),
    "png of one iCCP bomb": (
        BrokenImage,
        lambda: png(9, 9, bytes(999), chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(9**8)))),
    ),
    "png of 40000 iCCP": (BrokenImage, lambda: png(9, 9, bytes(999), chunk(b"iCCP", b"a\0\0" + MEGABYTE) * 40_000)),
    "png of 99 zTXt": (BrokenImage, lambda: png(9, 9, bytes(999), chunk(b"zTXt", b"a\0\0" + MEGABYTE) * 99)),
    "png of 99 iTXt": (BrokenImage, lambda: png(9, 9, bytes(999), chunk(b"iTXt", b"a\0\1\0\0\0" + MEGABYTE) * 99)),
    "png of a million chunks": (BrokenImage, lambda: png(9, 9, bytes(999), chunk(b"abCd", b"") * 1_000_000)),
    "gif of 24 million blocks": (
        BrokenImage,
        lambda: valid()["image/gif"][:SCREEN] + b"!\xfe" + b"\1a" * 24_000_000 + valid()["image/gif"][SCREEN:],
    ),
    "gif of 60000 x 60000": (TooManyPixels, lambda: patched("image/gif", 6, struct.pack("<HH", 60000, 60000))),
    "gif frame of 60000": (TooManyPixels, lambda: patched("image/gif", b",\0\0\0\0", b"\x60\xea\x60\xea", 5)),
    "gif frame of 13000": (TooManyPixels, lambda: patched("image/gif", b",\0\0\0\0", b"\xc8\x32\xc8\x32", 5)),
    "webp of 16 million": (TooManyPixels, lambda: patched("lossless webp", b"VP8L", b"\xff" * 4, 9)),
    "webp of 16383": (TooManyPixels, lambda: patched("image/webp", 26, b"\xff\x3f\xff\x3f")),
    "webp canvas of 9000": (
        BrokenImage,
        lambda: b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x27\x23\0\x27\x23\0" + bytes(40),
    ),
    "bmp of 60000": (TooManyPixels, lambda: patched("image/bmp", 18, struct.pack("<ii", 60000, 60000))),
    "bmp shorter than its size": (BrokenImage, lambda: patched("image/bmp", 18, struct.pack("<ii", 9900, 9900))),
    "bmp of negative height": (TooManyPixels, lambda: patched("image/bmp", 22, struct.pack("<i", -(2**31)))),
    "tiff of 60000": (TooManyPixels, lambda: tiff({256: (4, 1, 60000), 257: (4, 1, 60000)}, bytes(100))),
    "tiff shorter than its size": (BrokenImage, lambda: tiff({256: (4, 1, 9900), 257: (4, 1, 9900)}, bytes(100))),
    "tiff of 3 million strips": (
        BrokenImage,
        lambda: tiff({257: (4, 1, 3_000_000), 273: (4, 3_000_000, 256), 278: (4, 1, 1)}, b"\1\0\0\0" * 3_000_000),
    ),
    "tiff of 3 million depths": (BrokenImage, lambda: tiff({258: (3, 3_000_000, 256)}, bytes(6_000_000))),
    "tiff tile of 900 MP": (
        TooManyPixels,
        lambda: tiff({322: (4, 1, 30000), 323: (4, 1, 30000), 324: (4, 1, 256), 325: (4, 1, 99)}, bytes(999)),
    ),
    "tiff whose folder follows itself": (None, lambda: tiff({}, bytes(100), following=8)),
    "tiff folder outside": (BrokenImage, lambda: b"II*\0\xff\xff\xff\x7f" + bytes(100)),
    "bigtiff of endless tags": (
        BrokenImage,
        lambda: b"II+\0\x08\0\0\0\x10" + bytes(7) + b"\xff" * 8 + bytes(9_000_000),
    ),
    "tiff of 200 pages": (
        None,
        lambda: tiff_of(Image.new("L", (8, 8)), save_all=True, append_images=[Image.new("L", (8, 8))] * 200),
    ),
    "heic of 20000, cropped": (TooManyPixels, lambda: patched("image/heic", b"ispe", b"\0\0N " * 2, 8)),
    "heic that lies": (BrokenImage, lambda: patched("image/heic", b"ispe", struct.pack(">II", 9900, 9900), 8)),
    "avif of 60000": (TooManyPixels, lambda: patched("image/avif", b"ispe", struct.pack(">II", 60000, 60000), 8)),
    "polyglot of gif and html": (BrokenImage, lambda: b"GIF89a=1/*" + bytes(2000) + b"*/;<script>alert(1)</script>"),
    "zip behind a jpeg": (None, lambda: valid()["image/jpeg"] + b"PK\3\4" * 1000),
    "svg": (UnsupportedImage, lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='99999999' height='9999999'/>"),
    "empty": (UnsupportedImage, lambda: b""),
    "one byte": (UnsupportedImage, lambda: b"\xff"),
}


@pytest.fixture(scope="module", autouse=True)
def quiet_pillow() -> None:
    ImageReader(LIMIT, SIDE)


def refused(data: bytes) -> ImgsimError | None:
    """The error of `data` within two seconds, in words for a user; None where it is decoded."""
    start, found = time.perf_counter(), None
    try:
        inspect(data)
    except (UnsupportedImage, BrokenImage, TooManyPixels) as error:
        found = error
    assert time.perf_counter() - start < 2
    assert found is None or re.fullmatch(r"[^<>]+\.", found.message)
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_or_harmless(name: str) -> None:
    expected, make = HOSTILE[name]
    found = refused(make())
    if expected is not None:
        assert type(found) is expected


def test_too_many_pixels_names_the_size_the_limit_and_the_setting() -> None:
    with pytest.raises(TooManyPixels, match=r"128 x 96 .* 12287 .* upload\.max_pixels"):
        inspect(encode(QUARTERS, "image/png"), max_pixels=12287)
    assert inspect(encode(QUARTERS, "image/png"), max_pixels=12288).width == 128


@pytest.mark.parametrize("name", list(valid()))
def test_truncated_files_are_refused(name: str) -> None:
    data = valid()[name]
    # GIF and PNG may lack their last marks: all pixels are there. A JPEG may not lack a byte.
    ends = {"image/gif": 4, "image/png": 30, "palette": 30}
    for length in {*(len(data) * part // 20 for part in range(20)), len(data) - ends.get(name, 1)}:
        assert refused(data[:length]) is not None, length


def test_a_drafted_jpeg_without_its_tail_is_refused() -> None:
    data = encode(np.asarray(Image.fromarray(QUARTERS).resize((1920, 1440))), "image/jpeg")
    for missing in (1, 2, 3, 100, len(data) // 2):
        assert isinstance(refused(data[:-missing]), BrokenImage)


@pytest.mark.parametrize("name", list(valid()))
def test_random_bytes_behind_a_magic_number(name: str) -> None:
    noise = np.random.default_rng(3).bytes(5000)
    for kept in (2, 4, 8, 12, 16, 24, 32):
        assert refused(valid()[name][:kept] + noise) is not None


mutations = st.lists(
    st.tuples(
        st.sampled_from(["flip", "byte", "cut", "splice", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
        st.sampled_from(list(valid())),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(list(valid())), mutations)
def test_mutated_files_decode_or_are_refused(name: str, changes: list[tuple[str, float, float, int, str]]) -> None:
    data = bytearray(valid()[name])
    for how, where, other, value, donor in changes:
        at, to = int(where * len(data)), int(other * len(data))
        if how == "flip" and data:
            data[at] ^= 1 << value % 8
        elif how == "byte" and data:
            data[min(at, value)] = value  # headers are at the start
        elif how == "cut":
            del data[at:to]
        elif how == "splice":
            data[at:at] = valid()[donor][to : to + value]
        elif how == "repeat":
            data[at:at] = data[at : at + value]
    try:
        found = inspect(bytes(data), max_pixels=1_000_000)
    except (UnsupportedImage, BrokenImage, TooManyPixels):
        return
    assert found.picture.ndim == 3
    assert found.width * found.height <= 1_000_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory from /proc")
def test_hostile_files_leave_stderr_and_memory_alone() -> None:
    script = "import test_images; test_images.read_all_hostile_files()"
    run = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, check=False)
    assert run.stderr == b""
    assert run.returncode == 0
    assert int(run.stdout) < 700, "MiB: 600 for a progressive JPEG of 98 MP, and the bytes of the file itself"


def read_all_hostile_files() -> None:
    def memory(key: str) -> int:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split(f"{key}:")[1].split()[0]) // 1024

    ImageReader(LIMIT, SIDE)
    for data in valid().values():
        refused(data)
        refused(data[:-9])
    before = memory("VmRSS")
    for _, make in HOSTILE.values():
        refused(make())
    print(memory("VmHWM") - before)


# the reader


@pytest.fixture
async def reader() -> AsyncIterator[ImageReader]:
    reader = ImageReader(LIMIT, SIDE, threads=4)
    yield reader
    await reader.close()


async def test_inspect_decode_and_sha256_read_a_file_from_its_start(reader: ImageReader) -> None:
    data = PHOTOS[0].read_bytes()
    with tempfile.SpooledTemporaryFile() as file:
        file.write(data)
        assert await reader.sha256(file) == hashlib.sha256(data).hexdigest()  # type: ignore[arg-type]
        found = await reader.inspect(file)  # type: ignore[arg-type]
    assert found.content_type == "image/jpeg"
    assert (await reader.decode(data) == found.picture).all()
    with pytest.raises(UnsupportedImage, match="empty"):
        await reader.inspect(io.BytesIO())


async def test_decoding_is_off_the_event_loop_and_big_pictures_take_turns(
    reader: ImageReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, threads = 0, 0, set()
    lock = threading.Lock()

    def watched(data: bytes, max_pixels: int, min_side: int, big: bool) -> Inspection | None:
        nonlocal running, most
        threads.add(threading.current_thread())
        with lock:
            running += big
            most = max(most, running)
        try:
            return read_image(data, max_pixels, min_side, big)
        finally:
            with lock:
                running -= big

    monkeypatch.setattr(images, "BIG_PIXELS", 1000)
    monkeypatch.setattr(images, "read_image", watched)
    data = valid()["image/webp"]
    pictures = await asyncio.gather(*(reader.decode(data) for _ in range(12)))
    assert len(pictures) == 12
    assert most == 1
    assert threading.main_thread() not in threads
