"""Zip and tar files: their members are read, and never written anywhere under the names that they have."""

import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import BinaryIO

from imgsim.core.errors import ImgsimError
from imgsim.sources.files import readable
from imgsim.sources.source import Item, NotAnImage, Reach, drawn, failing, opening, read_chunks, spooled
from imgsim.sources.tar_stream import TarStream
from imgsim.sources.zip_directory import Member, ZipDirectory

_OF_SYSTEMS = "__MACOSX"  # macOS puts a shadow of every file there


class ZipSource:
    """The images in a zip file; all else, other archives too, is passed over."""

    def __init__(self, label: str, open_file: Callable[[], BinaryIO], reach: Reach) -> None:
        self.label = label
        self._open_file = open_file
        self._reach = reach

    def items(self) -> AsyncGenerator[Item, None]:
        return drawn(self._members)

    def count(self) -> int | None:
        """Folders, of which some archives have entries, are counted too."""
        with self._open_file() as file:
            return ZipDirectory(file).entries

    def _members(self) -> Iterator[Item]:
        file = self._open_file()
        try:
            directory = ZipDirectory(file)
        except BaseException:
            file.close()
            raise
        weakref.finalize(directory, file.close)  # by the last item that has it, long after this has ended
        begun = False
        try:
            for member in directory.members():
                begun = True
                if not member.name.endswith("/") and not _hidden(member.name):
                    yield _item(self.label, member.name, partial(self._unpacked, directory, member))
        except ImgsimError as error:
            if not begun:
                raise
            yield failing(self.label, error)

    def _unpacked(self, directory: ZipDirectory, member: Member) -> BinaryIO:
        return spooled(directory.chunks(member), self._reach)


class TarSource:
    """The images in a tar file, plain or packed by gzip, bzip2 or xz; all else is passed over."""

    def __init__(self, label: str, open_file: Callable[[], BinaryIO], reach: Reach) -> None:
        self.label = label
        self._open_file = open_file
        self._reach = reach

    def items(self) -> AsyncGenerator[Item, None]:
        return drawn(self._members)

    def count(self) -> int | None:
        return None

    def _members(self) -> Iterator[Item]:
        with self._open_file() as file:
            stream = TarStream(file, self._reach.max_bytes, self._reach.stopping)
            try:
                for name in stream.members():
                    if not _hidden(name):
                        yield self._next(stream, name)
            except ImgsimError as error:
                if not stream.begun:
                    raise
                yield failing(self.label, error)

    def _next(self, stream: TarStream, name: str) -> Item:
        """Its bytes are read now, since nobody comes back to them."""
        try:
            file = spooled(read_chunks(stream.read), self._reach)
        except (NotAnImage, ImgsimError, OSError) as error:
            return failing(f"{self.label}/{readable(name)}", error)
        return _item(self.label, name, lambda: file)


def _item(archive: str, name: str, open_member: Callable[[], BinaryIO]) -> Item:
    label = f"{archive}/{readable(name)}"
    filename = PurePosixPath(readable(name)).name
    return Item(label, opening(open_member), filename, metadata={"path": label})


def _hidden(name: str) -> bool:
    return any((part.startswith(".") and part not in (".", "..")) or part == _OF_SYSTEMS for part in name.split("/"))
