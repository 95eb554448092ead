"""Files and folders of the embedded index: written so that a power cut keeps them, copied, and read ahead.

Nothing here holds the GIL for long, unlike every call of the engine.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Event

from imgsim.core.errors import Unavailable

BLOCK = 1024 * 1024
"""Bytes read ahead at a time."""

ZEROS = bytes(64 * 1024)
"""What is copied at a time; where a file has only these, its copy has a hole."""


def write_durably(file: Path, text: str) -> None:
    """Replace `file` atomically; it is on the disk when this returns."""
    temporary = file.with_name(file.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(file)
    sync(file.parent)


def sync(path: Path) -> None:
    """Bring the file or folder `path` to the disk, with what others have written to it by memory maps."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Bring everything in `folder` to the disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def tree_bytes(folder: Path) -> int:
    """What `folder` takes of the disk: its files have holes."""
    return sum(file.stat().st_blocks * 512 for file in _files(folder))


def check_space(folder: Path, needed: float) -> None:
    """``Unavailable`` where the disk of `folder` has less than `needed` bytes free. Takes 3 us."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Unavailable(f"The disk is full: {free / 1e6:.0f} MB are free, and {needed / 1e6:.0f} are needed.")


def copy_tree(source: Path, target: Path, stop: Event) -> None:
    """Copy `source`, in which nobody writes, to `target`; with `stop` set, no further than the file at hand."""
    for path in source.rglob("*"):
        if stop.is_set():
            return
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(parents=True, exist_ok=True)
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            _copy_with_holes(path, copy)


def read_ahead(folder: Path, stop: Event | None = None) -> None:
    """Have the system keep all of `folder` in memory, as far as there is room.

    The engine drops its pages when it closes a shard, and reads them page by page when it opens one, all in one
    call: 1.2 s for 100,000 points of 1280 dimensions, and 0.04 s after this.
    """
    block = bytearray(BLOCK)
    for file in _files(folder):
        with file.open("rb", buffering=0) as read:
            while not (stop and stop.is_set()) and read.readinto(block):
                pass


def _copy_with_holes(source: Path, target: Path) -> None:
    """Blocks of zeros are found by reading them: holes are read at the speed of memory, on every system."""
    with source.open("rb", buffering=0) as read, target.open("wb") as write:
        while data := read.read(len(ZEROS)):
            if data == ZEROS[: len(data)]:
                write.seek(len(data), os.SEEK_CUR)
            else:
                write.write(data)
        write.truncate()  # or it would end before a last hole


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
