"""Files and folders."""

import os
import stat
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from imgsim.client.sources import readable as readable
from imgsim.core.errors import InvalidRequest
from imgsim.sources.source import HEAD_BYTES, Item, NotAnImage, Reach, drawn, failing, opening


class FileSource:
    """A file, which must be an image, or all files below a folder, where other things are passed over; so are hidden
    ones."""

    def __init__(self, path: Path, reach: Reach) -> None:
        self._path = path
        self._reach = reach
        self.label = readable(path)

    def items(self) -> AsyncGenerator[Item, None]:
        return drawn(self._walk)

    def count(self) -> int | None:
        return sum(1 for _ in find_files(self._path))

    def _walk(self) -> Iterator[Item]:
        must_be = not self._path.is_dir()
        unreadable: list[OSError] = []  # folders, told of when the next file is found
        for path in find_files(self._path, unreadable.append):
            yield from _told(unreadable)
            yield file_item(path, self._reach, must_be)
        yield from _told(unreadable)


def find_files(path: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """`path`, or every file below it, hidden ones left out. `on_error` is told of folders that cannot be read."""
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path, onerror=on_error):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder, name)


def _told(errors: list[OSError]) -> Iterator[Item]:
    while errors:
        error = errors.pop(0)
        yield failing(readable(error.filename), error)


def file_item(path: Path, reach: Reach, must_be: bool = True, **known: Any) -> Item:
    """The file at `path`; `known` is what else an ``Item`` has."""
    known["metadata"] = {"path": readable(path.absolute()), **known.get("metadata", {})}
    known["filename"] = known.get("filename") or readable(path.name)
    return Item(readable(path), opening(lambda: _open(path, reach, must_be)), **known)


def _open(path: Path, reach: Reach, must_be: bool) -> BinaryIO:
    try:
        regular = stat.S_ISREG(path.stat().st_mode)  # a pipe would block
    except ValueError as error:  # a NUL in it
        raise InvalidRequest("No file can have this name.") from error
    if not regular:
        raise InvalidRequest("This is no file.") if must_be else NotAnImage
    file = path.open("rb")
    if not must_be and not reach.begins_like_image(file.read(HEAD_BYTES)):
        file.close()
        raise NotAnImage
    return file
