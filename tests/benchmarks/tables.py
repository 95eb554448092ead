"""Tables that grow by a row as soon as it is measured, in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    heading: str
    key: str
    """Of the row."""
    form: str = ".1f"
    """How a number is written."""

    @property
    def width(self) -> int:
        return max(len(self.heading), 7)

    def cell(self, row: Mapping[str, Any]) -> str:
        """Its value in `row`; a dash where it has none."""
        value = row.get(self.key)
        text = format(value, self.form) if isinstance(value, int | float) else str(value or "-")
        return f"{text:>{self.width}}"


class Table:
    """Prints `title` and the headings; then each row as it comes. Every row has a ``name``, its first cell."""

    def __init__(self, title: str, name: str, columns: Sequence[Column], width: int = 29) -> None:
        self._columns = columns
        self._width = width = max(width, len(name))
        headings = [f"{name:<{width}}", *(f"{column.heading:>{column.width}}" for column in columns)]
        rules = ["-" * width, *("-" * (column.width - 1) + ":" for column in columns)]
        print(f"\n{title}\n")
        self._print(headings)
        self._print(rules)

    def fill(self, rows: Iterable[Row]) -> list[Row]:
        """Print and return the rows."""
        printed = []
        for row in rows:
            self._print([f"{row['name']:<{self._width}}", *(column.cell(row) for column in self._columns)])
            printed.append(row)
        return printed

    def _print(self, cells: Sequence[str]) -> None:
        print(f"| {' | '.join(cells)} |", flush=True)
