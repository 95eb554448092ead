"""Rows of CSV: ``,``, ``;`` or tabs between the cells, whatever the first line has most of."""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import TextIOWrapper
from typing import Any, BinaryIO, TextIO

from imgsim.core.errors import ImgsimError, InvalidRequest
from imgsim.sources.tables import is_empty

_LONGEST_ROW = csv.field_size_limit()  # characters: 131,072; so no field ever meets that limit
_DELIMITERS = ",;\t"
# No more digits than a float holds, and no zero before them: all else is a name or a key, and stays text.
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,14})")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?(?:[eE][+-]?[0-9]{1,2})?")


class CsvRows:
    """The first row has the names of the columns. UTF-8, with or without a byte order mark."""

    def __init__(self, open_file: Callable[[], BinaryIO]) -> None:
        self._open_file = open_file

    def columns(self) -> Sequence[str]:
        with self._text() as text:
            return self._read(_Lines(text))[0]

    def count(self) -> int | None:
        return None

    def rows(self) -> Iterator[Mapping[str, Any] | ImgsimError]:
        with self._text() as text:
            lines = _Lines(text)
            columns, reader = self._read(lines)
            while (cells := self._next(reader, lines)) is not None:
                if isinstance(cells, ImgsimError):
                    yield cells
                    if lines.lost:
                        return
                elif cells:  # an empty line is no row
                    yield _row(columns, cells)

    def _read(self, lines: "_Lines") -> tuple[Sequence[str], Any]:
        first = next(lines, "")
        delimiter = max(_DELIMITERS, key=first.count)
        reader = csv.reader(lines.again(first), delimiter=delimiter, strict=True)
        columns = self._next(reader, lines)
        if isinstance(columns, ImgsimError):
            raise columns
        names = [name.strip() for name in columns or ()]
        if len(names) > len(set(names)):
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidRequest(f"The table has the column {twice[:80]!r} more than once.")
        return names, reader

    def _next(self, reader: Any, lines: "_Lines") -> list[str] | ImgsimError | None:
        lines.begin_row()
        try:
            return next(reader, None)
        except csv.Error as error:
            return InvalidRequest(f"Line {lines.number} of the table is no CSV: {error}.")
        except ImgsimError as error:
            return error

    def _text(self) -> TextIOWrapper:
        return TextIOWrapper(self._open_file(), encoding="utf-8-sig", errors="surrogateescape", newline="")


class _Lines:
    """Lines for the parser, which would read on without end where a quote is never closed."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._again: list[str] = []
        self._size = 0
        self.number = 0
        self.lost = False
        """Where the next row begins is not known."""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self._again:
            return self._again.pop()
        line = self._text.readline(_LONGEST_ROW + 1 - self._size)
        self._size += len(line)
        self.number += 1
        if self._size > _LONGEST_ROW:
            self.lost = True
            raise InvalidRequest(
                f"The row that ends beyond line {self.number} of the table has more than {_LONGEST_ROW} characters; "
                "is a quote not closed? What comes behind is not read."
            )
        if not line:
            raise StopIteration
        return line

    def begin_row(self) -> None:
        self._size = 0

    def again(self, line: str) -> "_Lines":
        """Give `line` once more."""
        self._again.append(line)
        return self


def _row(columns: Sequence[str], cells: Sequence[str]) -> Mapping[str, Any] | ImgsimError:
    if len(cells) > len(columns):
        return InvalidRequest(f"The row has {len(cells)} cells, and the table {len(columns)} columns.")
    found = zip(columns, map(str.strip, cells), strict=False)  # cells that are left out are empty
    return {name: cell if name in _TEXTS else _number(cell) for name, cell in found if name and not is_empty(cell)}


_TEXTS = {"path", "url", "filename", "collection", "tags", "metadata"}


def _number(cell: str) -> Any:
    if _INTEGER.fullmatch(cell):
        return int(cell)
    return float(cell) if _DECIMAL.fullmatch(cell) else cell
