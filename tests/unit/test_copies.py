"""How many copies the rule finds among photographs, and how many photographs it takes for copies."""

from pathlib import Path

from tests.benchmarks.copies import measure
from tests.conftest import DATA


def test_the_rule_finds_copies_and_takes_no_photograph_for_one(tmp_path: Path) -> None:
    for part in ("neardup", "classes/banana", "classes/milk", "classes/dress"):
        (tmp_path / part).mkdir(parents=True)
        for photograph in (DATA / part).iterdir():
            (tmp_path / part / photograph.name).symlink_to(photograph)
    rows = {row["name"]: row for row in measure(tmp_path)}
    assert rows["all copies"]["count"] == 132
    assert rows["all copies"]["rule"] >= 0.97
    assert rows["wrongly called: photographs"]["rule"] <= 0.01
    assert rows["wrongly called: copies"]["rule"] == 0
    for signal in ("embedding", "gem", "pdq", "pdq8"):
        assert rows["all copies"][signal] < rows["all copies"]["rule"]
    weakest = min(rows.values(), key=lambda row: row["rule"] if "wrongly" not in row["name"] else 1)
    assert weakest["rule"] >= 0.8, weakest
