"""What an image and a search cost as the stock grows: cost = a * N ** exponent, fitted through all sizes."""

import argparse
from collections.abc import Mapping, Sequence

import numpy as np

from tests.benchmarks.search import stocks
from tests.benchmarks.tables import Column, Row, Table

COSTS: Mapping[str, str] = {
    "image_cpu_ms": "CPU of an image",
    "http_p50_ms": "search p50",
    "bare_p50_ms": "bare engine p50",
    "above_p50_ms": "search above the engine",
}
"""By figure of the part ``search``."""


def run(options: argparse.Namespace) -> list[Row]:
    measured = list(stocks(options))
    points = [row["points"] for row in measured]
    columns = (*(Column(f"{size:,}", str(size), ".2f") for size in points), Column("exponent", "exponent", ".3f"))
    table = Table("Growth with the number of images (ms; exponent 0: no growth, 1: in proportion)", "cost", columns)
    return table.fill(_fitted(name, points, [row[figure] for row in measured]) for figure, name in COSTS.items())


def _fitted(name: str, points: Sequence[int], costs: Sequence[float]) -> Row:
    by_size = {str(size): cost for size, cost in zip(points, costs, strict=True)}
    return {"name": name, **by_size, "exponent": exponent(points, costs)}


def exponent(points: Sequence[int], costs: Sequence[float]) -> float | None:
    """The slope of the line through the logarithms; None for fewer than two points, or a cost that is not positive."""
    if len(points) < 2 or min(costs) <= 0:
        return None
    return float(np.polyfit(np.log(points), np.log(costs), 1)[0])
