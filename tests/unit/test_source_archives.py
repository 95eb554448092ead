"""Zip and tar files: whole, hostile, encrypted, cut off."""

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from itertools import chain, repeat

import pytest

from imgsim.core.errors import InvalidRequest
from imgsim.sources import Source
from imgsim.sources.archives import TarSource, ZipSource
from tests.unit.sources import MAGIC, PASSED, Pieces, items_of, opener, outcome, outcomes, reach

IMAGE = MAGIC + bytes(range(100))
CUT = "is cut off or damaged here; what comes behind is not found."


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, **options: object) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method, **options) as archive:  # type: ignore[arg-type]
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return out.getvalue()


def zip_source(data: bytes, **options: int) -> ZipSource:
    return ZipSource("a.zip", opener(data), reach(**options))


def tar_source(data: bytes, **options: int) -> TarSource:
    return TarSource("a.tar", opener(data), reach(**options))


MEMBERS = {"cat.jpg": IMAGE, "sub/dög.jpg": IMAGE + b"2", "notes.txt": b"no image", "empty.jpg": b""}
PACKED: dict[str, Callable[[dict[str, bytes]], Source]] = {
    "zip": lambda members: zip_source(zipped(members)),
    "stored zip": lambda members: zip_source(zipped(members, zipfile.ZIP_STORED)),
    "self-extracting zip": lambda members: zip_source(b"#!/bin/sh" * 50 + zipped(members)),
    "tar": lambda members: tar_source(tarred(members)),
    "GNU tar": lambda members: tar_source(tarred(members, tarfile.GNU_FORMAT)),
    "tar.gz": lambda members: tar_source(gzip.compress(tarred(members))),
    "tar.bz2": lambda members: tar_source(bz2.compress(tarred(members))),
    "tar.xz": lambda members: tar_source(lzma.compress(tarred(members))),
}


WITHOUT_BLOCKS = ("zip", "stored zip", "tar", "GNU tar", "tar.gz")
"""The others unpack only as a whole when they are this small."""


@pytest.fixture(params=PACKED)
def packed(request: pytest.FixtureRequest) -> Callable[[dict[str, bytes]], Source]:
    return PACKED[request.param]


async def test_images_come_and_all_else_is_passed_over(packed: Callable[[dict[str, bytes]], Source]) -> None:
    nested = {"inner.zip": zipped(MEMBERS), "inner.tar": tarred(MEMBERS)}
    source = packed({**MEMBERS, **nested, ".hidden.jpg": IMAGE, "__MACOSX/._cat.jpg": IMAGE, ".git/x.jpg": IMAGE})
    label = source.label

    found = await outcomes(source)

    passed = ("notes.txt", "empty.jpg", "inner.zip", "inner.tar")
    assert found == {
        f"{label}/cat.jpg": IMAGE,
        f"{label}/sub/dög.jpg": IMAGE + b"2",
        **{f"{label}/{name}": PASSED for name in passed},
    }


async def test_the_name_is_a_label_and_no_path(packed: Callable[[dict[str, bytes]], Source]) -> None:
    names = ["../../etc/passwd.jpg", "/etc/cron.d/x.jpg", "a" * 300 + ".jpg"]
    items = await items_of(packed(dict.fromkeys(names, IMAGE)))

    assert [item.filename for item in items] == ["passwd.jpg", "x.jpg", "a" * 300 + ".jpg"]
    assert [item.metadata["path"] for item in items] == [f"{items[0].label[:5]}/{name}" for name in names]


async def test_a_member_that_unpacks_beyond_the_limit_is_too_large(
    packed: Callable[[dict[str, bytes]], Source],
) -> None:
    source = packed({"bomb.jpg": MAGIC + bytes(8_000_000), "bomb.bin": bytes(8_000_000), "good.jpg": IMAGE})
    tracemalloc.start()
    try:
        found = await outcomes(source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert list(found.values()) == ["The file has more than 1000 bytes (upload.max_bytes).", PASSED, IMAGE]
    assert peak < (12_000_000 if b"XZ" in source._open_file().read(6) else 4_000_000)  # type: ignore[attr-defined]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
async def test_a_tar_file_is_not_unpacked_without_end(pack: Callable[[bytes], bytes]) -> None:
    """A few kB that unpack to half a gigabyte, of a member that nobody wants."""
    archive = tarred({"a.jpg": IMAGE, "b.jpg": IMAGE})
    header = tarfile.TarInfo("bomb.bin")
    header.size = 512 << 20
    bomb = pack(archive[:1024] + header.tobuf()) + pack(bytes(8 << 20)) * 64 + pack(archive[1024:])

    found = await outcomes(tar_source(bomb))

    assert (found["a.tar/a.jpg"], found["a.tar/bomb.bin"]) == (IMAGE, PASSED)
    assert "unpacks to more than 20 times its size" in str(found["a.tar"])
    assert len(found) == 3


async def test_a_tar_file_that_takes_long_is_left_when_it_should_stop() -> None:
    looks = chain(repeat(False, 20), repeat(True))
    archive = tarred({"large.bin": bytes(8_000_000), "b.jpg": IMAGE})
    source = TarSource("a.tar", opener(archive), reach(stopping=lambda: next(looks)))

    assert list((await outcomes(source)).values()) == [PASSED, "The import stopped in the middle of this tar file."]


async def test_what_is_no_archive_is_an_error(packed: Callable[[dict[str, bytes]], Source]) -> None:
    kind = ZipSource if isinstance(packed({}), ZipSource) else TarSource
    for junk in (
        b"",
        b"junk",
        bytes(1024),
        b"\x1f\x8b junk",
        b"BZh junk",
        b"\xfd7zXZ\0 junk",
        b"PK\5\6" + b"\xff" * 18,
    ):
        with pytest.raises(InvalidRequest, match=r"This is no (zip|tar) file\.|cut off"):
            assert not await items_of(kind("junk", opener(junk), reach()))


@pytest.mark.parametrize("name", WITHOUT_BLOCKS)
async def test_an_archive_that_is_cut_off_gives_what_is_there_and_says_so(name: str) -> None:
    chance = random.Random(1)
    members = {f"{number}.jpg": MAGIC + chance.randbytes(500) for number in range(20)}
    source = PACKED[name](members)
    whole = source._open_file().read()  # type: ignore[attr-defined]
    cut = type(source)(source.label, opener(whole[: len(whole) * 6 // 10]), reach())  # type: ignore[call-arg]

    found = await outcomes(cut)

    good = {label.rpartition("/")[2]: data for label, data in found.items() if isinstance(data, bytes)}
    assert good.items() <= members.items()
    assert len(good) >= 10
    assert str(found[source.label]).endswith(CUT)
    assert len(found) - len(good) <= 2


async def test_bytes_that_are_not_those_that_were_packed_fail_alone() -> None:
    data = bytearray(zipped({"a.jpg": IMAGE, "b.jpg": IMAGE}, zipfile.ZIP_STORED))
    data[data.index(IMAGE) + 50] ^= 1
    found = await outcomes(zip_source(bytes(data)))

    assert "is damaged" in str(found["a.zip/a.jpg"])
    assert found["a.zip/b.jpg"] == IMAGE


async def test_encrypted_members_and_other_methods_are_told_of() -> None:
    data = zipped({"a.jpg": IMAGE, "b.jpg": IMAGE})
    encrypted = data.replace(struct.pack("<4sHH", b"PK\1\2", 20 | 3 << 8, 20) + b"\0\0", b"PK\1\2\x14\3\x14\0\1\0", 1)
    assert encrypted != data
    found = await outcomes(zip_source(encrypted))
    assert "is encrypted" in str(found["a.zip/a.jpg"])
    assert found["a.zip/b.jpg"] == IMAGE

    (said,) = (await outcomes(zip_source(zipped({"a.jpg": IMAGE}, zipfile.ZIP_BZIP2)))).values()
    assert "packed by method 12" in str(said)


async def test_a_zip_file_of_more_than_32_bits_can_tell(tmp_path: object) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open("a.jpg", "w", force_zip64=True) as member:
        member.write(IMAGE)
    assert await outcomes(zip_source(out.getvalue())) == {"a.zip/a.jpg": IMAGE}
    data = out.getvalue()
    end = data.rindex(b"PK\5\6")
    directory = struct.unpack_from("<LL", data, end + 12)
    wide = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, *directory)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    small = data[end : end + 8] + b"\xff" * 12 + b"\0\0"
    assert await outcomes(zip_source(data[:end] + wide + locator + small)) == {"a.zip/a.jpg": IMAGE}


async def test_a_directory_that_points_anywhere_is_an_error_and_never_a_loop() -> None:
    data = zipped({f"{number}.jpg": IMAGE for number in range(3)})
    chance = random.Random(2)
    start = data.index(b"PK\1\2")
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(3):
            broken[chance.randrange(start, len(data))] = chance.randrange(256)
        try:
            found = [await outcome(item) for item in await items_of(zip_source(bytes(broken)))]
        except InvalidRequest:
            continue
        assert len(found) <= 5
        assert all(each in (IMAGE, PASSED) or isinstance(each, str) for each in found)


async def test_a_broken_tar_file_is_an_error_and_never_a_loop() -> None:
    data = tarred({f"{'x' * 120}{number}.jpg": IMAGE for number in range(3)})
    chance = random.Random(3)
    for _ in range(150):
        broken = bytearray(data)
        at = chance.randrange(0, len(data) // 512) * 512
        broken[at + chance.randrange(512)] = chance.randrange(256)
        try:
            await outcomes(tar_source(bytes(broken)))
        except InvalidRequest:
            continue


async def test_headers_that_never_end_are_refused() -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 34
    endless = chain([header.tobuf(tarfile.GNU_FORMAT)], repeat(bytes(1 << 16), 1 << 18))
    source = TarSource("a.tar", lambda: _Seekable(endless), reach())  # type: ignore[arg-type,return-value]
    (said,) = (await outcomes(source)).values()
    assert "a header of 17179869184 bytes; at most 65536" in str(said)


async def test_links_devices_and_sparse_files_are_no_images() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE), ("dev.jpg", tarfile.CHRTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "/etc/passwd"
            archive.addfile(header)
        header = tarfile.TarInfo("real.jpg")
        header.size = len(IMAGE)
        archive.addfile(header, io.BytesIO(IMAGE))
    assert await outcomes(tar_source(out.getvalue())) == {"a.tar/real.jpg": IMAGE}


async def test_a_million_members_take_no_memory() -> None:
    """Of a zip file; the standard library makes objects of 0.7 GB of them."""
    count = 1_000_000
    name = b"x.jpg"
    entry = struct.pack("<4s4xHHxxxxLLLHHHxxxxxxxxL", b"PK\1\2", 0, 0, zlib.crc32(b""), 0, 0, len(name), 0, 0, 0) + name
    size = len(entry) * count
    end = struct.pack("<4s6xHLLH", b"PK\5\6", 0xFFFF, size, 0, 0)
    data = entry * count + end
    tracemalloc.start()
    try:
        seen = 0
        async for _ in zip_source(data).items():
            seen += 1
            if seen == 2_000:
                break
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


class _Seekable(Pieces):
    """The first bytes can be read again."""

    def read(self, size: int | None = -1) -> bytes:
        if not hasattr(self, "head"):
            self.head = super().read(6) or b""
            return self.head
        if self.head:
            kept, self.head = self.head[: size or 0], self.head[size or 0 :]
            return kept
        return super().read(size or 0) or b""

    def seek(self, offset: int, whence: int = 0) -> int:
        return offset
