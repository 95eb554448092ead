"""Tables, CSV or Parquet: a row for each image, with what is known about it."""

import json
import math
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from imgsim.core.errors import ImgsimError, InvalidRequest
from imgsim.sources.places import item_at
from imgsim.sources.source import Item, Reach, drawn, failing

_OWN = {"path", "url", "tags", "collection", "filename", "metadata"}


class Rows(Protocol):
    """``OSError`` or ``ImgsimError`` where there is no such table."""

    def columns(self) -> Sequence[str]: ...

    def rows(self) -> Iterator[Mapping[str, Any] | ImgsimError]:
        """The cells by column, those that are empty left out; or what is wrong with a row."""
        ...

    def count(self) -> int | None: ...


class TableSource:
    """Where a row's image lies is in the column ``path`` (relative to `folder`) or ``url``.

    ``tags`` (separated by ``;`` or ``,``, or a list), ``collection`` and ``filename`` are what they say; ``metadata``
    is a JSON object, and every other column becomes a key beside what it has.
    """

    def __init__(self, label: str, table: Rows, folder: Path | None, reach: Reach) -> None:
        self.label = label
        self._table = table
        self._folder = folder
        self._reach = reach

    def items(self) -> AsyncGenerator[Item, None]:
        return drawn(self._each)

    def count(self) -> int | None:
        return self._table.count()

    def _each(self) -> Iterator[Item]:
        columns = self._table.columns()
        if not {"path", "url"} & set(columns):
            shown = ", ".join(repr(name[:40]) for name in columns[:20])
            raise InvalidRequest(
                f"The table has neither a column 'path' nor a column 'url'. It has: {shown or 'none'}."
            )
        if not self._reach.files and "path" in columns:
            raise InvalidRequest(
                "The table has a column 'path', and a server does not read its own files for clients. "
                "Name URLs in a column 'url' instead."
            )
        for number, row in enumerate(self._table.rows(), 1):
            label = f"{self.label}, row {number}"
            try:
                if isinstance(row, ImgsimError):
                    raise row
                yield self._item(row)
            except ImgsimError as error:
                yield failing(label, error)

    def _item(self, row: Mapping[str, Any]) -> Item:
        place = row.get("path") or row.get("url")
        if not isinstance(place, str):
            raise InvalidRequest("The row has neither a path nor a URL.")
        known: dict[str, Any] = {
            "filename": str(row.get("filename", "")),
            "collection": str(row["collection"]) if "collection" in row else None,
            "tags": _tags(row.get("tags", "")),
            "metadata": {name: value for name, value in row.items() if name not in _OWN} | _metadata(row),
        }
        return item_at(place, self._folder, self._reach, **known)


def _tags(cell: Any) -> list[str]:
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        cell = _json(cell, "tags")
    if isinstance(cell, str):
        cell = cell.split(";" if ";" in cell else ",")
    if not isinstance(cell, list):
        return [str(cell)]
    return [tag for each in cell if each is not None and (tag := str(each).strip())]


def _metadata(row: Mapping[str, Any]) -> dict[str, Any]:
    found = row.get("metadata", {})
    found = _json(found, "metadata") if isinstance(found, str) else found
    if not isinstance(found, dict):
        raise InvalidRequest("The column 'metadata' must hold a JSON object.")
    return found


def _json(text: str, column: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The column {column!r} begins like JSON, but is none: {text[:80]!r}.") from error


def is_empty(value: Any) -> bool:
    """Whether a cell says nothing."""
    return value is None or value == "" or (isinstance(value, float) and not math.isfinite(value))
