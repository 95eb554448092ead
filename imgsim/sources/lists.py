"""A text file of URLs, one in a line."""

from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from imgsim.core.errors import ImgsimError, InvalidRequest
from imgsim.sources.places import item_at
from imgsim.sources.source import Item, Reach, drawn, failing

_LONGEST_LINE = 8192  # bytes


class ListSource:
    """Empty lines, and those that begin with ``#``, are left out. A line may be a path too, relative to `folder`."""

    def __init__(self, label: str, open_file: Callable[[], BinaryIO], folder: Path | None, reach: Reach) -> None:
        self.label = label
        self._open_file = open_file
        self._folder = folder
        self._reach = reach

    def items(self) -> AsyncGenerator[Item, None]:
        return drawn(lambda: self._each(self._lines()))

    def count(self) -> int | None:
        return sum(1 for _ in self._lines())

    def _each(self, lines: Iterator[tuple[int, bytes]]) -> Iterator[Item]:
        for number, line in lines:
            try:
                yield self._item(line)
            except ImgsimError as error:
                yield failing(f"{self.label}, line {number}", error)

    def _item(self, line: bytes) -> Item:
        if len(line) > _LONGEST_LINE:
            raise InvalidRequest(f"The line is longer than {_LONGEST_LINE} bytes.")
        return item_at(line.decode("utf-8", "surrogateescape"), self._folder, self._reach)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with self._open_file() as file:
            number = 0
            while line := file.readline(_LONGEST_LINE + 1):
                number += 1
                rest = line
                while not rest.endswith(b"\n") and (rest := file.readline(_LONGEST_LINE)):
                    pass  # the rest of a line that is too long
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                text = line if len(line) > _LONGEST_LINE else line.strip()
                if text and not text.startswith(b"#"):
                    yield number, text
