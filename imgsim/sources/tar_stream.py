"""The members of a tar file, read as a stream.

``tarfile`` keeps every member in a list, and headers of any size in memory; only its parser of single headers is used.
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, cast

from imgsim.core.errors import InvalidRequest

_BLOCK = tarfile.BLOCKSIZE
_CHUNK_BYTES = 1 << 16
_LONGEST_HEADER = 1 << 16  # a name, and what pax has beside it
_LZMA_MEMORY = 128 << 20  # xz -9 needs 65 MiB; a hostile header may ask for 4 GiB
_MOST_TO_ONE = 20  # bytes that are unpacked for each that is packed; gzip makes 1,000 of one, bzip2 millions
_LEAST_UNPACKED = 64 << 20  # whatever it is made of
_BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError)


def _unxz(file: BinaryIO) -> BinaryIO:
    return cast("BinaryIO", _XzFile(file))


class _XzFile:
    """``lzma.LZMAFile`` has no limit on memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inner = lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)

    def read(self, size: int) -> bytes:
        while not self._inner.eof:
            data = self._file.read(_CHUNK_BYTES) if self._inner.needs_input else b""
            if self._inner.needs_input and not data:
                raise EOFError
            if found := self._inner.decompress(data, size):
                return found
        return b""


UNPACKERS: Mapping[bytes, Callable[[BinaryIO], BinaryIO]] = {
    b"\x1f\x8b": lambda file: cast("BinaryIO", gzip.GzipFile(fileobj=file)),
    b"BZh": lambda file: cast("BinaryIO", bz2.BZ2File(file)),
    b"\xfd7zXZ\0": _unxz,
}
"""By how the file begins. None of them unpacks much more than it is asked for."""


class TarStream:
    """Gives the members that are files, one after the other; each is read before the next is asked for.

    ``InvalidRequest`` where `file` is no tar file, breaks off, or unpacks to far more than 20 times its size and
    20 times `max_bytes`: nothing comes behind that. So where `stopping` says so in the middle of it.
    """

    def __init__(self, file: BinaryIO, max_bytes: int, stopping: Callable[[], bool] = lambda: False) -> None:
        head = file.read(max(map(len, UNPACKERS)))
        file.seek(0)
        unpacker = next((each for magic, each in UNPACKERS.items() if head.startswith(magic)), None)
        self._packed = file if unpacker else None
        self._file = unpacker(file) if unpacker else file
        self._allowed = max(_MOST_TO_ONE * max_bytes, _LEAST_UNPACKED)
        self._unpacked = 0
        self._stopping = stopping
        self._left = 0  # bytes of the member
        self._padding = 0
        self.begun = False
        """Whether it is a tar file at all."""

    def members(self) -> Iterator[str]:
        """The name of each; its bytes are what ``read`` gives then. A sparse file is left out."""
        name = b""
        while (header := self._header()) is not None:
            if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
                text = self._long(header)
                name = text.rstrip(b"\0") if header.type == tarfile.GNUTYPE_LONGNAME else _pax_path(text) or name
                continue
            if header.isreg() and header.type != tarfile.GNUTYPE_SPARSE:
                yield name.decode("utf-8", "surrogateescape") or header.name
            if header.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
                name = b""
            self._skip()

    def read(self, size: int) -> bytes:
        """The next bytes of the member; none at its end."""
        chunk = self._read(min(size, self._left, _CHUNK_BYTES))
        if self._left and not chunk:
            raise InvalidRequest("The tar file ends in the middle of this member.")
        self._left -= len(chunk)
        return chunk

    def _header(self) -> tarfile.TarInfo | None:
        block = self._exactly(_BLOCK)
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            if self.begun and block.count(0) == _BLOCK:
                return None
            raise InvalidRequest(self._wrong()) from error
        self.begun = True
        if header.size < 0:
            raise InvalidRequest(self._wrong())
        # Links and folders have no bytes, whatever they say.
        has_bytes = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES or header.type in tarfile.GNU_TYPES
        self._left = header.size if has_bytes or header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE) else 0
        self._padding = -self._left % _BLOCK
        more = header.type == tarfile.GNUTYPE_SPARSE and block[482]
        while more:  # the map of a sparse file
            more = self._exactly(_BLOCK)[504:505] not in (b"", b"\0")
        return header

    def _long(self, header: tarfile.TarInfo) -> bytes:
        if header.size > _LONGEST_HEADER:
            raise InvalidRequest(
                f"The tar file has a header of {header.size} bytes; at most {_LONGEST_HEADER} are read."
            )
        text = self._exactly(header.size)
        self._left = 0
        self._skip()
        return text

    def _skip(self) -> None:
        while self._left:
            self.read(_CHUNK_BYTES)
        self._exactly(self._padding)

    def _exactly(self, size: int) -> bytes:
        """`size` bytes, or those that are left."""
        found = b""
        while len(found) < size and (chunk := self._read(size - len(found))):
            found += chunk
        return found

    def _read(self, size: int) -> bytes:
        if self._stopping():
            raise InvalidRequest("The import stopped in the middle of this tar file.")
        try:
            chunk = self._file.read(size) if size else b""
        except _BROKEN as error:
            raise InvalidRequest(self._wrong()) from error
        self._unpacked += len(chunk)
        if self._packed and self._unpacked > self._allowed + _MOST_TO_ONE * self._packed.tell():
            raise InvalidRequest(
                f"The tar file unpacks to more than {_MOST_TO_ONE} times its size and, beside that, "
                f"{self._allowed} bytes; what comes behind is not read."
            )
        return chunk

    def _wrong(self) -> str:
        if not self.begun:
            return "This is no tar file."
        return "The tar file is cut off or damaged here; what comes behind is not found."


def _pax_path(text: bytes) -> bytes:
    """The path in a pax header: records of ``LENGTH KEY=VALUE\\n``."""
    while text:
        length, _, _ = text[:20].partition(b" ")
        size = int(length) if length.isdigit() else 0
        if not 0 < size <= len(text):
            return b""
        key, _, value = text[len(length) + 1 : size - 1].partition(b"=")
        if key == b"path":
            return value
        text = text[size:]
    return b""
