"""Files that somebody may still be writing: each is given out when it has been left alone for a while."""

import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from imgsim.sources.files import find_files

_REMEMBERED = 100_000


class _Look(NamedTuple):
    inode: int
    size: int
    modified: int  # nanoseconds

    @classmethod
    def at(cls, path: Path) -> "_Look | None":
        """None where no regular file is, or a folder; a pipe would block."""
        try:
            found = path.stat()
        except (OSError, ValueError):
            return None
        kept = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
        return cls(found.st_ino, found.st_size, found.st_mtime_ns) if kept else None


class Resting:
    """`seconds` without a change of size or time make a file one that rests. Its methods may block on the disk.

    Each state of a file is given out once, as far as the last 100,000 are remembered.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._waiting: dict[Path, tuple[_Look | None, float]] = {}
        self._given: OrderedDict[Path, _Look] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def note(self, path: Path) -> None:
        """Wait until `path`, a file or a folder, rests from now on."""
        self._waiting[path] = (None, self._clock())

    def is_old(self, path: Path) -> bool:
        """Whether a file was last written before; else it is noted."""
        look = _Look.at(path)
        if look is not None and time.time() - look.modified / 1e9 >= self._seconds:
            return self._is_new_state(path, look)
        self.note(path)
        return False

    def rested(self, changed: Iterable[Path] = ()) -> Iterator[Path]:
        """The files that rest now, after something was done to `changed`, files or folders."""
        for path in changed:
            self.note(path)
        for path, (before, since) in list(self._waiting.items()):
            look = _Look.at(path)
            if look is None:
                del self._waiting[path]
            elif look != before:
                self._waiting[path] = (look, self._clock())
                self._note_files_in(path)
            elif self._clock() - since >= self._seconds:
                del self._waiting[path]
                if path.is_dir():
                    self._note_files_in(path)  # again: some may have come before the system told of those in it
                elif self._is_new_state(path, look):
                    yield path

    def _note_files_in(self, folder: Path) -> None:
        if not folder.is_dir():
            return
        for path in find_files(folder):
            look = _Look.at(path)
            if path not in self._waiting and look is not None and self._given.get(path) != look:
                self.note(path)

    def _is_new_state(self, path: Path, look: _Look) -> bool:
        if self._given.get(path) == look:
            return False
        self._given[path] = look
        self._given.move_to_end(path)
        if len(self._given) > _REMEMBERED:
            self._given.popitem(last=False)
        return True


def is_hidden(path: Path, folders: list[Path]) -> bool:
    """Whether a part of `path` below the one of `folders` that it is in begins with a dot."""
    within = next((path.relative_to(folder) for folder in folders if path.is_relative_to(folder)), path)
    return any(part.startswith(".") and part not in (os.curdir, os.pardir) for part in within.parts)
