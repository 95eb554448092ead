"""The benchmarks run, whatever their figures: ``python -m tests.benchmarks --small``."""

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.benchmarks.__main__ import PARTS
from tests.benchmarks.compare import compare
from tests.benchmarks.growth import exponent
from tests.benchmarks.photographs import fresh, make_photographs

pytestmark = pytest.mark.alone

SECONDS = 180.0


def benchmarks(*arguments: str) -> str:
    """What they print."""
    command = [sys.executable, "-m", "tests.benchmarks", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


def statuses(figures: Any) -> Iterator[int]:
    """All HTTP statuses that the figures tell of."""
    if isinstance(figures, list):
        for each in figures:
            yield from statuses(each)
    elif isinstance(figures, dict):
        for key, value in figures.items():
            if key.isdecimal():
                yield int(key)
            else:
                yield from statuses(value)


def test_a_small_run_prints_and_writes_every_part(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    said = benchmarks("--small", "--json", str(file))
    figures = json.loads(file.read_text())
    assert set(PARTS) < set(figures)
    for part in PARTS:
        assert figures[part]
        for row in figures[part]:
            assert f"| {row['name']} " in said
    assert set(statuses([figures[part] for part in PARTS if part != "growth"])) == {200, 202}
    assert all(row["per_second"] > 0 and row["floor_per_second"] > 0 for row in figures["ingest"])
    assert all(row["others_per_second"] > 0 for row in figures["uploads"] + figures["search"])
    assert {row.get("torch") for row in figures["start"]} <= {"no", "-", None}
    compared = benchmarks("compare", str(file), str(file))
    assert "split" in compared
    assert "| single process, per_second " in compared


def test_compare_shows_what_one_side_lacks() -> None:
    before = [{"name": "old", "cost": 3}, {"name": "both", "cost": 2.0, "text": "no number"}]
    after = [{"name": "both", "cost": 5}, {"name": "new", "cost": 1}]
    assert list(compare(before, after)) == [
        {"name": "old, cost", "a": 3, "b": None, "ratio": None},
        {"name": "both, cost", "a": 2.0, "b": 5, "ratio": 2.5},
        {"name": "new, cost", "a": None, "b": 1, "ratio": None},
    ]
    assert list(compare(None, [{"name": "new", "cost": 1}])) == [
        {"name": "new, cost", "a": None, "b": 1, "ratio": None}
    ]


def test_the_exponent_of_a_power_law_is_its_power() -> None:
    points = [1000, 10_000, 500_000]
    assert exponent(points, [3 * size**0.7 for size in points]) == pytest.approx(0.7)
    assert exponent(points, [4.0, 4.0, 4.0]) == pytest.approx(0)
    assert exponent(points, [1.0, -0.1, 2.0]) is None
    assert exponent([1000], [1.0]) is None


def test_fresh_photographs_are_new_bytes_of_the_same_pixels() -> None:
    photographs = make_photographs(2, (64, 48))
    found = list(islice(fresh(photographs, "test"), 6))
    assert len({*photographs, *found}) == 8
    for number, data in enumerate(found):
        shown, original = (np.asarray(Image.open(io.BytesIO(each))) for each in (data, photographs[number % 2]))
        np.testing.assert_array_equal(shown, original)


@pytest.mark.skipif("IMGSIM_TEST_SLOW" not in os.environ, reason="half a minute; IMGSIM_TEST_SLOW=1 runs it")
def test_an_architecture_of_open_clip_is_measured_with_random_weights(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    model, file = "ViT-S-32-alt", tmp_path / "figures.json"
    with tempfile.TemporaryDirectory() as cache:  # 0.3 GB, which pytest would keep
        benchmarks("ingest", "--small", "--models", model, "--cache", cache, "--json", str(file))
        assert (Path(cache) / f"{model}.pt").exists()
    (row,) = json.loads(file.read_text())["ingest"]
    assert row["name"] == f"160x120, {model}"
    assert row["ratio"] > 0
