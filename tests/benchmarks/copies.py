"""``python -m tests.benchmarks.copies DIR``: which copies each signal finds, and which photographs it takes for copies.

DIR holds ``neardup/*.jpg``, the originals, and more photographs below it. The copies are those that
``neardup_copies/pairs.csv`` (path,original,transform) names; without it they are made here. Each copy and each
photograph looks among the photographs, as the stage ``copies`` does: at the nearest six by the embedding.

A photograph is *wrongly called* where it is taken for a copy of another one. The thresholds of the cosines are set
where that happens to 1 % of these very photographs; those of the hash and of the rule are the product's.
"""

import argparse
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsim.adapters.embedding.onnx_session import open_session
from imgsim.adapters.embedding.packaged import WEIGHTS, preprocess
from imgsim.adapters.images import read_image
from imgsim.core.copies import MOST_BITS, bits_apart, first_copies
from imgsim.core.fingerprints import Fingerprint
from imgsim.fingerprints import take_fingerprint
from tests.benchmarks.changed import changed
from tests.benchmarks.tables import Column, Row, Table

NEIGHBOURS = 6
_SMALLEST_SIDE = 448
_WRONGLY_CALLED = 0.01

SIGNALS = ("embedding", "gem", "pdq", "pdq8", "rule")
"""Cosine of the embedding; of the packaged model's other output; PDQ; PDQ in eight orientations; what imgsim does."""


@dataclass(frozen=True, slots=True)
class Picture:
    way: str
    """How it was made of its original; empty for a photograph."""
    original: int
    """Its original's place among the photographs; its own for a photograph."""
    embedding: NDArray[np.float32]
    gem: NDArray[np.float32]
    fingerprint: Fingerprint | None


def measure(folder: Path) -> list[Row]:
    """A row for each way of changing, for all copies, and for the photographs: shares of them, by signal."""
    pictures = list(_pictures(folder))
    photographs = [picture for picture in pictures if not picture.way]
    scores = {signal: np.full((len(pictures), len(photographs)), -np.inf) for signal in SIGNALS}
    for output in ("embedding", "gem"):
        rows, columns = (np.stack([getattr(each, output) for each in some]) for some in (pictures, photographs))
        scores[output] = (rows @ columns.T).astype(float)
    for row, picture in enumerate(pictures):
        near = np.argsort(-scores["embedding"][row])[: NEIGHBOURS + 1]
        if not picture.way:  # which is among the photographs itself
            near = near[near != picture.original]
        _compare(picture, photographs, near, {signal: scores[signal][row] for signal in ("pdq", "pdq8", "rule")})
    own = np.array([picture.original for picture in pictures])
    ways = np.array([picture.way for picture in pictures])
    called = {signal: _called(scores[signal], own, ways, signal) for signal in SIGNALS}
    places = {way: np.flatnonzero(ways == way) for way in dict.fromkeys(ways) if way}
    places["all copies"] = np.flatnonzero(ways != "")
    rows = [_row(way, {s: called[s][at, own[at]].mean() for s in SIGNALS}, len(at)) for way, at in places.items()]
    for signal in SIGNALS:  # what a picture and its own original have in common is not wrong
        called[signal][np.arange(len(own)), own] = False
    for name, at in (
        ("wrongly called: photographs", np.flatnonzero(ways == "")),
        ("wrongly called: copies", places["all copies"]),
    ):
        rows.append(_row(name, {s: called[s][at].any(1).mean() for s in SIGNALS}, len(at)))
    return rows


def _row(name: str, shares: Mapping[str, Any], count: int) -> Row:
    return {"name": name, "count": count, **{signal: float(share) for signal, share in shares.items()}}


def _compare(
    picture: Picture, photographs: Sequence[Picture], near: NDArray[np.intp], scores: Mapping[str, NDArray[np.float64]]
) -> None:
    """Fill in the `scores` of `picture` with the photographs that are near."""
    if picture.fingerprint is None:
        return
    others = {int(place): other for place in near if (other := photographs[place].fingerprint)}
    places = list(others)
    scores["rule"][[places[found] for found in first_copies(picture.fingerprint, list(others.values()))]] = 1
    for place, other in others.items():
        scores["pdq"][place] = -int((picture.fingerprint.pdq != other.pdq).sum())
        scores["pdq8"][place] = -int(bits_apart(picture.fingerprint, [other])[0])


def _called(
    scores: NDArray[np.float64], own: NDArray[np.intp], ways: NDArray[np.str_], signal: str
) -> NDArray[np.bool_]:
    """Which picture is called a copy of which photograph."""
    if signal == "rule":
        return scores > 0
    if signal in ("pdq", "pdq8"):
        return scores >= -MOST_BITS
    others = scores.copy()
    others[np.arange(len(own)), own] = -np.inf
    best = np.sort(others[ways == ""].max(1))[::-1]
    return scores > best[int(len(best) * _WRONGLY_CALLED)]


def _pictures(folder: Path) -> Iterator[Picture]:
    """The photographs, then the copies."""
    session = open_session(WEIGHTS)

    def picture(data: bytes, way: str, original: int) -> Picture:
        pixels = read_image(data, 10**8, _SMALLEST_SIDE).picture  # type: ignore[union-attr]
        embedding, gem = (
            row[0] / np.linalg.norm(row[0]) for row in session.run(["y", "gem"], {"x": preprocess(pixels)})
        )
        return Picture(way, original, embedding, gem, take_fingerprint(pixels))

    made = folder / "neardup_copies"
    photographs = sorted(path for path in folder.rglob("*.jpg") if made not in path.parents)
    for place, path in enumerate(photographs):
        yield picture(path.read_bytes(), "", place)
    for place, path in enumerate(photographs):
        if path.parent == folder / "neardup" and not (made / "pairs.csv").exists():
            for way, data in changed(path.read_bytes(), path.name):
                yield picture(data, way, place)
    if (made / "pairs.csv").exists():
        with (made / "pairs.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                place = photographs.index(folder / row["original"])
                yield picture((folder / row["path"]).read_bytes(), row["transform"], place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    columns = [Column("n", "count", "d"), *(Column(signal, signal, ".3f") for signal in SIGNALS)]
    rows = Table("Shares that are called copies", "how it was changed", columns).fill(measure(options.folder))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
