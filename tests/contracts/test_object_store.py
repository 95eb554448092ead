"""What every object store promises, and what the one on disk promises beyond that."""

import asyncio
import errno
import hashlib
import io
import itertools
import os
import sys
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from imgsim.adapters.objects import OBJECT_STORES
from imgsim.adapters.objects.file import FileObjectStore
from imgsim.core.errors import InvalidRequest, ObjectNotFound, SettingsError, Unavailable
from imgsim.core.ports import ObjectStore
from imgsim.settings import Objects, Settings
from tests.servers import SeaweedFS

MIB = 1 << 20


@pytest.fixture(scope="module")
async def s3_store(seaweedfs: SeaweedFS) -> AsyncIterator[ObjectStore]:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in seaweedfs.environment.items():
            patched.setenv(name, value)
        async with opened(seaweedfs.new_bucket()) as store:
            yield store


@pytest.fixture(params=["memory", "file", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, s3_store: ObjectStore) -> AsyncIterator[ObjectStore]:
    """An empty one."""
    if request.param == "s3":
        yield s3_store
        async for info in s3_store.list(""):
            await s3_store.delete(info.key)
        return
    async with opened({"memory": "memory:", "file": f"file://{tmp_path}/new/objects"}[request.param]) as store:
        yield store


def opened(url: str) -> ObjectStore:
    return OBJECT_STORES[url.partition(":")[0]](Settings(objects=Objects(url=url)))


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[FileObjectStore]:
    async with FileObjectStore(tmp_path) as store:
        yield store


async def put(store: ObjectStore, key: str, content: bytes, durable: bool = True) -> int:
    return await store.put(key, io.BytesIO(content), "image/png", durable)


async def read(store: ObjectStore, key: str, start: int = 0, length: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in store.get(key, start, length)])


async def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return sorted([info.key async for info in store.list(prefix)])


def temporaries(root: Path) -> list[str]:
    return [path.name for path in (root / "tmp").iterdir() if path.name != "lock"]


# every store


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB // 2])
async def test_what_is_put_is_got(store: ObjectStore, size: int) -> None:
    content = os.urandom(size)
    assert await put(store, "originals/7f/one", content) == size
    assert await read(store, "originals/7f/one") == content


async def test_source_is_read_from_its_start_and_stays_open(store: ObjectStore) -> None:
    source = io.BytesIO(b"content")
    source.seek(4)
    assert await store.put("a/b", source, "image/png") == 7
    assert not source.closed
    assert await store.put("a/c", source, "image/png") == 7
    assert await read(store, "a/b") == await read(store, "a/c") == b"content"


async def test_a_repeat_replaces(store: ObjectStore) -> None:
    await put(store, "a/b", b"the old one, which is longer")
    await put(store, "a/b", b"the new one")
    assert await read(store, "a/b") == b"the new one"
    assert await keys(store) == ["a/b"]


async def test_what_can_be_made_anew_is_put_like_all_else(store: ObjectStore) -> None:
    assert await put(store, "a/b/c", b"the old one, which is longer", durable=False) == 28
    assert await put(store, "a/b/c", b"the new one", durable=False) == 11
    assert await read(store, "a/b/c") == b"the new one"
    assert await keys(store, "a/") == ["a/b/c"]
    await put(store, "a/b/d", b"durable")
    await store.delete("a/b/c")
    assert await keys(store) == ["a/b/d"]


async def test_a_reader_never_sees_a_mixture(store: ObjectStore) -> None:
    await put(store, "a/b", b"o" * 3 * MIB)
    stream = store.get("a/b")
    chunks = [await anext(stream)]
    await put(store, "a/b", b"n" * 3 * MIB)
    chunks += [chunk async for chunk in stream]
    assert b"".join(chunks) == b"o" * 3 * MIB
    assert await read(store, "a/b") == b"n" * 3 * MIB


async def test_of_many_writers_one_wins_as_a_whole(store: ObjectStore) -> None:
    contents = [bytes([65 + number]) * MIB for number in range(10)]
    await asyncio.gather(*(put(store, "a/b", content) for content in contents))
    assert await read(store, "a/b") in contents


async def test_chunks_are_of_one_mebibyte_at_most(store: ObjectStore) -> None:
    await put(store, "a/b", b"x" * (3 * MIB + 5))
    sizes = [len(chunk) async for chunk in store.get("a/b")]
    assert sum(sizes) == 3 * MIB + 5
    assert 0 < min(sizes) <= max(sizes) <= MIB


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 1), (0, 0), (2, 3), (2, None), (MIB - 1, 2), (MIB, MIB), (2 * MIB, 9), (2 * MIB + 3, None), (1 << 70, 1)],
)
async def test_ranges(store: ObjectStore, start: int, length: int | None) -> None:
    content = os.urandom(2 * MIB + 3)
    await put(store, "a/b", content)
    assert await read(store, "a/b", start, length) == content[start:][:length]


async def test_a_negative_range_is_refused(store: ObjectStore) -> None:
    await put(store, "a/b", b"content")
    with pytest.raises(InvalidRequest):
        await read(store, "a/b", -1)
    with pytest.raises(InvalidRequest):
        await read(store, "a/b", 0, -1)


async def test_a_stream_may_be_left_early(store: ObjectStore) -> None:
    await put(store, "a/b", b"x" * 3 * MIB)
    stream = store.get("a/b")
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await store.delete("a/b")


async def test_a_missing_object_is_told_at_the_first_chunk(store: ObjectStore) -> None:
    await put(store, "a/b", b"x")
    for key in ("missing", "a", "a/c", "a/b/c"):
        stream = store.get(key)
        with pytest.raises(ObjectNotFound, match=key):
            await anext(stream)


async def test_exists_and_delete(store: ObjectStore) -> None:
    assert not await store.exists("a/b")
    await put(store, "a/b", b"x")
    assert await store.exists("a/b")
    assert not await store.exists("a")
    await store.delete("a/b")
    assert not await store.exists("a/b")
    for key in ("a/b", "a", "a/b/c", "never/was"):
        await store.delete(key)
    await put(store, "a/b", b"again")
    assert await read(store, "a/b") == b"again"


async def test_list_takes_any_beginning_of_a_key(store: ObjectStore) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    for key in ("originals/7f/a1", "originals/7f/a2", "originals/80/b", "other"):
        await put(store, key, b"12345")
    assert await keys(store) == ["originals/7f/a1", "originals/7f/a2", "originals/80/b", "other"]
    assert await keys(store, "o") == await keys(store, "")
    assert await keys(store, "originals/7") == ["originals/7f/a1", "originals/7f/a2"]
    assert await keys(store, "originals/7f/a2") == ["originals/7f/a2"]
    assert await keys(store, "originals/7f/a2/") == await keys(store, "nothing/here") == []
    info = await anext(store.list("other"))
    assert (info.key, info.bytes) == ("other", 5)
    assert before <= info.modified_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert info.modified_at.utcoffset() == timedelta(0)


async def test_list_of_many_while_they_are_deleted(store: ObjectStore) -> None:
    names = {f"many/{number:04}" for number in range(1200)}
    await asyncio.gather(*(put(store, name, b"") for name in names))
    seen = set()
    async for info in store.list("many/"):
        seen.add(info.key)
        await store.delete(info.key)
    assert seen == names
    assert await keys(store) == []


UNUSABLE = ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/../b", "./a", "a/.", "tmp", "tmp/a"]
UNUSABLE += ["a b", "ä", "a\\b", "a\n", "a\0", "a:b", "x" * 256, "/".join(["x" * 200] * 6)]


@pytest.mark.parametrize("key", UNUSABLE)
async def test_keys_that_not_every_store_can_take_are_refused(store: ObjectStore, key: str) -> None:
    for call in (put(store, key, b""), read(store, key), store.delete(key), store.exists(key)):
        with pytest.raises(InvalidRequest, match="object key"):
            await call


@pytest.mark.parametrize("key", ["a", "...", ".a", "a..b", "..a/b", "tmpfile", "a/tmp/b", "A-Z_0.9/" + "x" * 255])
async def test_odd_keys_that_are_fine(store: ObjectStore, key: str) -> None:
    await put(store, key, b"x")
    assert await keys(store) == [key]


@pytest.mark.parametrize("prefix", ["/", "../", "a/../", "a//", "tmp/", "ä"])
async def test_prefixes_that_begin_no_key_are_refused(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(InvalidRequest):
        await keys(store, prefix)


async def test_a_presigned_url_serves_and_stores_where_there_are_any(store: ObjectStore) -> None:
    await put(store, "a/b", b"x")
    url = await store.presign_get("a/b", 60, "cat.png")
    put_there = await store.presign_put("a/c", 60, "image/png", 5, hashlib.sha256(b"there").hexdigest())
    if url is None or put_there is None:
        assert url is put_there is None
        return
    async with httpx.AsyncClient() as client:
        assert (await client.get(url)).content == b"x"
        stored = await client.put(put_there.url, headers=put_there.headers, content=b"there")
        assert stored.is_success
    assert await read(store, "a/c") == b"there"


async def test_ping(store: ObjectStore) -> None:
    await store.ping()
    assert await keys(store) == []


# on disk


async def test_a_relative_folder_is_refused() -> None:
    with pytest.raises(SettingsError, match="absolute"):
        opened("file://objects")


async def test_objects_outlive_the_store(tmp_path: Path) -> None:
    async with FileObjectStore(tmp_path) as store:
        await put(store, "a/b", b"content")
    async with FileObjectStore(tmp_path) as store:
        assert await read(store, "a/b") == b"content"


async def test_a_key_is_no_folder_of_others(files: FileObjectStore, tmp_path: Path) -> None:
    await put(files, "a/b", b"x")
    for key, durable in itertools.product(("a", "a/b/c", "a/b/c/d"), (True, False)):
        with pytest.raises(InvalidRequest, match="folder"):
            await put(files, key, b"x", durable)
    assert await keys(files) == ["a/b"]
    assert temporaries(tmp_path) == []


async def test_folders_that_were_removed_are_made_again(files: FileObjectStore, tmp_path: Path) -> None:
    await put(files, "a/b/c", b"x")
    (tmp_path / "a/b/c").unlink()
    (tmp_path / "a/b").rmdir()
    (tmp_path / "a").rmdir()
    await put(files, "a/b/c", b"y")
    assert await read(files, "a/b/c") == b"y"


async def test_the_last_object_takes_its_folder_with_it(files: FileObjectStore, tmp_path: Path) -> None:
    for key in ("a/b/one", "a/b/two"):
        await put(files, key, b"x", durable=False)
    await files.delete("a/b/one")
    assert (tmp_path / "a/b").is_dir()
    await files.delete("a/b/two")
    assert not (tmp_path / "a/b").exists()


async def test_puts_and_deletes_in_one_folder_do_not_hinder_each_other(files: FileObjectStore) -> None:
    async def come_and_go(number: int) -> None:
        for _ in range(20):
            await put(files, f"a/b/{number}", b"x", durable=number % 2 == 0)
            await files.delete(f"a/b/{number}")
        await put(files, f"a/b/{number}", b"x")

    await asyncio.gather(*map(come_and_go, range(6)))
    assert await keys(files) == [f"a/b/{number}" for number in range(6)]


async def test_bytes_and_names_are_synced_before_a_put_returns(
    files: FileObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.replace

    def noting_fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        events.append("sync bytes" if path.parent.name == "tmp" else f"sync {path.relative_to(tmp_path)}")
        fsync(descriptor)

    def noting_replace(source: Path, target: Path) -> None:
        events.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    await put(files, "a/b/c", b"x")
    assert events == ["sync bytes", "sync .", "sync a", "rename", "sync a/b"]
    events.clear()
    await put(files, "a/b/d", b"x")
    assert events == ["sync bytes", "rename", "sync a/b"]
    events.clear()
    await files.delete("a/b/d")
    assert events == ["sync a/b"]
    events.clear()
    await put(files, "a/new/d", b"x", durable=False)
    assert events == ["rename"]
    events.clear()
    await put(files, "a/new/e", b"x")
    assert events == ["sync bytes", "sync a", "rename", "sync a/new"]


async def test_a_full_disk_is_unavailable_and_changes_nothing(
    files: FileObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(files, "a/b", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(Unavailable, match="disk is full"):
            await put(files, "a/b", b"new")
    assert await read(files, "a/b") == b"old"
    assert temporaries(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_folder_that_may_not_be_written(files: FileObjectStore, tmp_path: Path) -> None:
    (tmp_path / "tmp").chmod(0o500)
    for call in (put(files, "a/b", b"x"), files.ping()):
        with pytest.raises(Unavailable, match="Permission denied"):
            await call
    (tmp_path / "tmp").chmod(0o700)
    await files.ping()


async def test_a_disk_that_is_gone_is_unavailable_not_empty(tmp_path: Path) -> None:
    root = tmp_path / "mounted"
    async with FileObjectStore(root) as store:
        await put(store, "a/b", b"x")
        root.rename(tmp_path / "away")
        calls = (store.ping(), put(store, "a/c", b""), read(store, "a/b"), store.exists("a/b"), store.delete("a/b"))
        for call in (*calls, keys(store), keys(store, "a/b")):
            with pytest.raises(Unavailable, match="mounted"):
                await call
        assert not root.exists()
        (tmp_path / "away").rename(root)
        await store.ping()
        assert await read(store, "a/b") == b"x"


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="cannot be used"):
        async with FileObjectStore(tmp_path / "file"):
            pass


class BlockingSource(io.BytesIO):
    """A source whose second read waits for `go`."""

    def __init__(self) -> None:
        super().__init__(b"x" * 3 * MIB)
        self.waiting, self.go = threading.Event(), threading.Event()

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            self.waiting.set()
            assert self.go.wait(10)
        return super().read(size)


async def test_a_cancelled_put_has_left_its_source_when_it_ends(files: FileObjectStore) -> None:
    source = BlockingSource()
    task = asyncio.create_task(files.put("a/b", source, "image/png"))
    await asyncio.to_thread(source.waiting.wait)
    task.cancel()
    await files.ping()  # several turns of the loop, and a thread's
    assert not task.done()
    source.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    source.close()
    assert await keys(files) in ([], ["a/b"])


async def test_another_process_that_opens_the_folder_leaves_live_temporaries(
    files: FileObjectStore, tmp_path: Path
) -> None:
    source = BlockingSource()
    task = asyncio.create_task(files.put("a/b", source, "image/png"))
    await asyncio.to_thread(source.waiting.wait)
    async with FileObjectStore(tmp_path) as other:
        assert await keys(other) == []
        source.go.set()
        assert await task == 3 * MIB
        assert await read(other, "a/b") == b"x" * 3 * MIB


KILLED = """
import asyncio, io, sys, time
from pathlib import Path
from imgsim.adapters.objects.file import FileObjectStore

class Endless(io.BytesIO):
    def read(self, size=-1):
        if self.tell() > 1 << 20:
            print("in the middle", flush=True)
            time.sleep(60)
        return super().read(size)

async def main():
    async with FileObjectStore(Path(sys.argv[1])) as store:
        for number in range(20):
            await store.put(f"a/{number}", io.BytesIO(b"x" * 300_000), "image/png")
            print(f"a/{number}", flush=True)
        await store.put("a/0", Endless(b"y" * (3 << 20)), "image/png")

asyncio.run(main())
"""


async def test_kill_in_the_middle_of_a_put(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    stored = []
    while (line := (await process.stdout.readline()).decode().strip()) != "in the middle":
        assert line.startswith("a/"), "the process has ended too early"
        stored.append(line)
    process.kill()
    await process.wait()
    assert len(temporaries(tmp_path)) == 1
    async with FileObjectStore(tmp_path) as store:
        assert temporaries(tmp_path) == []
        assert await keys(store) == sorted(stored)
        for key in stored:
            assert await read(store, key) == b"x" * 300_000
