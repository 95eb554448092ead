"""``python -m tests.benchmarks compare A.json B.json``: two measurements side by side."""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.tables import Column, Row, Table

_COLUMNS = (Column("A", "a", ".6g"), Column("B", "b", ".6g"), Column("B/A", "ratio", ".2f"))


def run(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks compare", description=__doc__)
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    options = parser.parse_args(arguments)
    before, after = (json.loads(path.read_text()) for path in (options.a, options.b))
    for part in _in_order(before, after):
        rows = list(compare(before.get(part), after.get(part)))
        if rows:
            Table(part, "figure", _COLUMNS, width=max(len(row["name"]) for row in rows)).fill(rows)


def compare(before: Any, after: Any) -> Iterator[Row]:
    """Each number on either side, and the ratio where both have it."""
    a, b = dict(_numbers(before)), dict(_numbers(after))
    for name in _in_order(a, b):
        both = name in a and name in b and a[name] != 0
        yield {"name": name, "a": a.get(name), "b": b.get(name), "ratio": b[name] / a[name] if both else None}


def _numbers(figures: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Numbers by where they are; rows by their names, so that rows between them move nothing."""
    if isinstance(figures, Mapping):
        for key, value in figures.items():
            yield from _numbers(value, f"{path}, {key}" if path else str(key))
    elif isinstance(figures, list):
        for number, value in enumerate(figures):
            name = str(value.get("name", number)) if isinstance(value, Mapping) else str(number)
            yield from _numbers(value, f"{path}, {name}" if path else name)
    elif isinstance(figures, int | float) and not isinstance(figures, bool):
        yield path, figures


def _in_order(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([*a, *b]))
