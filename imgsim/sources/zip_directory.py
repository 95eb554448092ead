"""What a zip file says that it holds, read as a stream.

``zipfile`` keeps an object for every member, of which a hostile file has hundreds of millions, cannot read a file
whose end is missing, and unpacks bzip2 without bounds. PKWARE's APPNOTE 6.3.10 is the format; numbers of its chapters
stand with the structures.
"""

import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from imgsim.core.errors import InvalidRequest

_LOCAL = struct.Struct("<4s2xHHxxxxLLLHH")  # 4.3.7: flags, method, crc, packed, size, name, extra
_CENTRAL = struct.Struct("<4s4xHHxxxxLLLHHHxxxxxxxxL")  # 4.3.12: the same, and comment, offset
_END = struct.Struct("<4s6xHLLH")  # 4.3.16: entries, size, offset, comment
_END64 = struct.Struct("<4s28xQQQ")  # 4.3.14: entries, size, offset
_LOCATOR = struct.Struct("<4s4xQ4x")  # 4.3.15: offset of the end record of zip64
_LONGEST_COMMENT = 65_535
_ENCRYPTED, _SIZES_FOLLOW, _UTF8 = 0x1, 0x8, 0x800
_CHUNK_BYTES = 1 << 16
_STORED, _DEFLATED = 0, 8


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    """Of the local header."""


class ZipDirectory:
    """The members of `file`, in the order in which it lists them, and their bytes.

    A file without its end is read from the front as far as that goes. Several threads may read at a time.
    ``InvalidRequest`` for what is no zip file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._turn = threading.Lock()
        self._shift = 0
        """Bytes before the archive, as self-extracting ones have."""
        self.entries: int | None = None
        """How many members it says it has; None where it has lost its directory."""
        self._find()

    def members(self) -> Iterator[Member]:
        """``InvalidRequest`` where the directory breaks off."""
        return self._listed() if self.entries is not None else self._from_the_front()

    def chunks(self, member: Member) -> Iterator[bytes]:
        """The bytes of `member`, unpacked. ``InvalidRequest`` says why they cannot be had."""
        if member.flags & _ENCRYPTED:
            raise InvalidRequest("The member of the zip file is encrypted, and no passwords are taken.")
        if member.method not in (_STORED, _DEFLATED):
            raise InvalidRequest(
                f"The member of the zip file is packed by method {member.method}; only stored and deflated ones are "
                "read."
            )
        at = member.offset + self._shift
        _, *_, name, extra = self._unpack(_LOCAL, at, b"PK\3\4")
        packed = self._packed(at + _LOCAL.size + name + extra, member.packed)
        crc, size = 0, 0
        for chunk in packed if member.method == _STORED else _inflated(packed):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
            yield chunk
        if (crc, size) != (member.crc, member.size):
            raise InvalidRequest("The member of the zip file is damaged: its bytes are not those that were packed.")

    def _find(self) -> None:
        """Where the directory is."""
        length = self._file.seek(0, 2)
        begin = max(0, length - _LONGEST_COMMENT - _END.size)
        self._file.seek(begin)
        tail = self._file.read()
        at = tail.rfind(b"PK\5\6")
        if at < 0 or len(tail) - at < _END.size:
            if self._read_at(0, 4) != b"PK\3\4":
                raise InvalidRequest("This is no zip file.")
            return
        end = begin + at
        _, entries, size, offset, _ = _END.unpack_from(tail, at)
        if end >= _LOCATOR.size and self._read_at(end - _LOCATOR.size, 4) == b"PK\6\7":
            where = self._unpack(_LOCATOR, end - _LOCATOR.size, b"PK\6\7")[1]
            _, entries, size, offset = self._unpack(_END64, where, b"PK\6\6")
            end = where
        self._shift = max(0, end - size - offset)
        self._begin, self._end = offset + self._shift, offset + size + self._shift
        self.entries = entries

    def _listed(self) -> Iterator[Member]:
        at = self._begin
        while at < self._end:
            _, flags, method, crc, packed, size, name, extra, comment, offset = self._unpack(_CENTRAL, at, b"PK\1\2")
            label = self._read_at(at + _CENTRAL.size, name)
            more = self._read_at(at + _CENTRAL.size + name, extra)
            size, packed, offset = _wide(more, size, packed, offset)
            yield Member(_text(label, flags), flags, method, crc, packed, size, offset)
            at += _CENTRAL.size + name + extra + comment

    def _from_the_front(self) -> Iterator[Member]:
        at = 0
        while True:
            _, flags, method, crc, packed, size, name, extra = self._unpack(_LOCAL, at, b"PK\3\4")
            label = self._read_at(at + _LOCAL.size, name)
            size, packed, _ = _wide(self._read_at(at + _LOCAL.size + name, extra), size, packed, 0)
            if flags & _SIZES_FOLLOW:
                raise InvalidRequest(
                    "The zip file has no directory at its end, and without it the rest cannot be found."
                )
            yield Member(_text(label, flags), flags, method, crc, packed, size, at)
            at += _LOCAL.size + name + extra + packed

    def _packed(self, at: int, size: int) -> Iterator[bytes]:
        while size:
            chunk = self._read_at(at, min(size, _CHUNK_BYTES))
            if not chunk:
                raise InvalidRequest("The zip file ends in the middle of this member.")
            yield chunk
            at, size = at + len(chunk), size - len(chunk)

    def _read_at(self, at: int, size: int) -> bytes:
        with self._turn:
            self._file.seek(at)
            return self._file.read(size)

    def _unpack(self, structure: struct.Struct, at: int, signature: bytes) -> tuple[int, ...]:
        found = self._read_at(at, structure.size) if at < 1 << 62 else b""
        if len(found) < structure.size or not found.startswith(signature):
            raise InvalidRequest("The zip file is cut off or damaged here; what comes behind is not found.")
        return structure.unpack(found)


def _inflated(packed: Iterator[bytes]) -> Iterator[bytes]:
    """Never much more at a time than goes in: a member may unpack to a thousand times its size."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for chunk in packed:
            while chunk and not inflater.eof:
                yield inflater.decompress(chunk, _CHUNK_BYTES)
                chunk = inflater.unconsumed_tail
        while not inflater.eof and (rest := inflater.decompress(inflater.unconsumed_tail, _CHUNK_BYTES)):
            yield rest
    except zlib.error as error:
        raise InvalidRequest("The member of the zip file is damaged: it cannot be unpacked.") from error


def _wide(extra: bytes, *values: int) -> list[int]:
    """`values`, and for those that 32 bits cannot hold what `extra` has (4.5.3)."""
    fields, at = b"", 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            fields = extra[at + 4 : at + 4 + size]
        at += 4 + size
    numbers = iter(struct.unpack(f"<{len(fields) // 8}Q", fields[: len(fields) // 8 * 8]))
    return [next(numbers, value) if value == 0xFFFFFFFF else value for value in values]


def _text(name: bytes, flags: int) -> str:
    return name.decode("utf-8" if flags & _UTF8 else "cp437", "replace")
