"""Objects as files below one folder: durable before a put returns, and never seen in part."""

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Self, TypeVar
from uuid import uuid4

import portalocker

from imgsim.adapters.objects import CHUNK_BYTES, TEMPORARY, check_key, check_prefix, check_range, is_key
from imgsim.core.errors import InvalidRequest, ObjectNotFound, Unavailable
from imgsim.core.models import ObjectInfo, PresignedPut
from imgsim.core.threads import finished

T = TypeVar("T")

_THREADS = 8  # they wait for the disk more than for a core
_LIST_BATCH = 500  # entries that a list reads at a time, and all that it holds
_LOCK = "lock"


class FileObjectStore:
    """The object of a key is the file `root`/key; what is being written lies in `root`/tmp.

    A key cannot be an object and the folder of other keys: ``InvalidRequest``. Several processes may
    have the same folder open. A cancelled call ends when its thread has.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = root / TEMPORARY
        self._durable: set[Path] = set()  # folders whose entry in their parent is known to be on disk
        self._folders = Lock()  # who removes an empty folder, and who puts something into it

    async def __aenter__(self) -> Self:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="imgsim-objects")
        try:
            await self._in_thread(self._open)
        except BaseException:
            self._pool.shutdown(wait=False)
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.to_thread(self._pool.shutdown)
        self._lock.close()

    async def ping(self) -> None:
        """Write a file: a full disk, a read-only one and one that is gone all look well to a stat."""
        await self._in_thread(self._probe)

    async def put(self, key: str, source: BinaryIO, content_type: str, durable: bool = True) -> int:
        check_key(key)
        return await self._in_thread(self._write, self._root / key, source, durable)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        check_key(key)
        check_range(start, length)
        reader = _Reader(lambda: self._open_object(key), start, length)
        try:
            while not reader.ended:
                if chunk := await self._in_thread(reader.read):
                    yield chunk
        finally:
            if not reader.ended:
                await self._in_thread(reader.close)

    async def presign_get(self, key: str, seconds: int, filename: str, download: bool = False) -> str | None:
        return None

    async def presign_put(
        self, key: str, seconds: int, content_type: str, size: int, sha256: str
    ) -> PresignedPut | None:
        return None

    async def delete(self, key: str) -> None:
        check_key(key)
        await self._in_thread(self._remove, self._root / key)

    async def exists(self, key: str) -> bool:
        check_key(key)
        return await self._in_thread(self._is_object, self._root / key)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        check_prefix(prefix)
        folder, slash, start = prefix.rpartition("/")
        objects = self._walk(folder + slash, start)
        try:
            while batch := await self._in_thread(lambda: [*islice(objects, _LIST_BATCH)]):
                for info in batch:
                    yield info
        finally:
            objects.close()

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run `function` in the pool; ``Unavailable`` for its ``OSError``."""
        try:
            return await finished(asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments))
        except OSError as error:
            reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
            raise Unavailable(f"The object store in {self._root} cannot be used: {reason}.") from error

    # in threads

    def _open(self) -> None:
        missing = [folder for folder in (self._root, *self._root.parents) if not folder.exists()]
        self._temporary.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            _sync_folder(folder.parent)
        self._durable = {self._root}
        self._lock = open(self._temporary / _LOCK, "ab")  # noqa: SIM115 (held until the store closes)
        try:
            self._sweep()
            portalocker.lock(self._lock, portalocker.LockFlags.SHARED)
        except portalocker.LockException as error:
            self._lock.close()
            raise Unavailable(f"The file {self._lock.name} cannot be locked: {error}.") from error

    def _sweep(self) -> None:
        """Remove what killed processes left, unless another process is there that may be writing it."""
        with suppress(portalocker.AlreadyLocked):
            portalocker.lock(self._lock, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
            for leftover in self._temporary.iterdir():
                if leftover.name != _LOCK:
                    leftover.unlink()

    def _probe(self) -> None:
        probe = self._temporary / uuid4().hex
        try:
            probe.write_bytes(b"ping")
        finally:
            probe.unlink(missing_ok=True)

    def _write(self, path: Path, source: BinaryIO, durable: bool) -> int:
        temporary = self._temporary / uuid4().hex
        try:
            source.seek(0)
            with open(temporary, "xb") as file:
                while chunk := source.read(CHUNK_BYTES):
                    file.write(chunk)
                size = file.tell()
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            self._move(temporary, path, self._make_folder if durable else _make_folder_some_time)
            if durable:
                self._sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return size

    def _move(self, temporary: Path, path: Path, make_folder: Callable[[Path], None]) -> None:
        try:
            with self._folders:
                make_folder(path.parent)
                try:
                    temporary.replace(path)
                except FileNotFoundError:
                    # Another process has removed the folder since we made it.
                    self._durable = {self._root}
                    make_folder(path.parent)
                    temporary.replace(path)
        except (IsADirectoryError, NotADirectoryError) as error:
            key = path.relative_to(self._root).as_posix()
            raise InvalidRequest(f"The object key {key!r} cannot be used: a key is no folder of others.") from error

    def _make_folder(self, folder: Path) -> None:
        """Make `folder` below the root. One that is there already may still be on its way to the disk."""
        if folder not in self._durable:
            self._make_folder(folder.parent)
            with suppress(FileExistsError):
                folder.mkdir()
            _sync_folder(folder.parent)
            self._durable.add(folder)

    def _open_object(self, key: str) -> BinaryIO:
        try:
            return open(self._root / key, "rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            self._check_root()
            raise ObjectNotFound(f"No object has the key {key}.") from error

    def _remove(self, path: Path) -> None:
        if self._is_object(path):
            path.unlink(missing_ok=True)
            self._sync(path.parent)
            with self._folders, suppress(OSError):  # others are in it
                path.parent.rmdir()
                self._durable.discard(path.parent)

    def _sync(self, folder: Path) -> None:
        """Make the names in `folder` durable; when the last has gone since, and it with them, that."""
        try:
            _sync_folder(folder)
        except FileNotFoundError:
            if folder == self._root:
                raise
            self._sync(folder.parent)

    def _is_object(self, path: Path) -> bool:
        if path.is_file():
            return True
        self._check_root()
        return False

    def _check_root(self) -> None:
        """A disk that is not mounted must not look like a store that has lost its objects."""
        self._temporary.stat()

    def _walk(self, folder: str, start: str) -> Generator[ObjectInfo, None, None]:
        """The objects below `folder` (empty, or ending in ``/``) whose next part begins with `start`."""
        try:
            entries = os.scandir(self._root / folder)
        except (FileNotFoundError, NotADirectoryError):
            self._check_root()
            return
        with entries:
            for entry in entries:
                key = folder + entry.name
                if not entry.name.startswith(start) or not is_key(key):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(f"{key}/", "")
                elif entry.is_file(follow_symlinks=False) and (info := _describe(key, entry)):
                    yield info


class _Reader:
    """A range of one open file, so that a put in between does not mix two objects into one answer."""

    def __init__(self, open_file: Callable[[], BinaryIO], start: int, length: int | None) -> None:
        self._open_file = open_file
        self._start = start
        self._length = length
        self._file: BinaryIO | None = None
        self._left = 0
        self.ended = False

    def read(self) -> bytes:
        """The next chunk; opens the file before the first, closes it after the last."""
        if self._file is None:
            self._file = self._open_file()
            there = max(0, os.fstat(self._file.fileno()).st_size - self._start)
            self._left = there if self._length is None else min(there, self._length)
            if self._left:
                self._file.seek(self._start)
        chunk = self._file.read(min(CHUNK_BYTES, self._left))
        self._left -= len(chunk)
        if not self._left or not chunk:
            self.close()
        return chunk

    def close(self) -> None:
        self.ended = True
        if self._file is not None:
            self._file.close()


def _describe(key: str, entry: os.DirEntry[str]) -> ObjectInfo | None:
    try:
        status = entry.stat()
    except FileNotFoundError:  # deleted since the folder was read
        return None
    return ObjectInfo(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))


def _make_folder_some_time(folder: Path) -> None:
    """On disk some time after. A file in its place is for the caller to find."""
    with suppress(FileExistsError):
        folder.mkdir(parents=True)


def _sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    if os.name == "nt":
        return  # Windows opens no folders; NTFS journals its names
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
