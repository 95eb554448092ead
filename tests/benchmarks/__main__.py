"""``python -m tests.benchmarks [PART…]``: measures this machine, prints tables, and writes JSON on request.

Nothing is asserted: figures are read by people, and compared as ratios within one run. ``python -m tests.benchmarks
compare A.json B.json`` shows two files side by side.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import imgsim
from tests.benchmarks import compare, growth, ingest, recall, search, split, start, uploads
from tests.benchmarks.tables import Row

PARTS: Mapping[str, Callable[[argparse.Namespace], list[Row]]] = {
    "ingest": ingest.run,
    "uploads": uploads.run,
    "search": search.run,
    "growth": growth.run,
    "recall": recall.run,
    "split": split.run,
    "start": start.run,
}

MODELS = ["efficientnet-lite0", *(["ViT-B-32"] if find_spec("open_clip") else [])]

SMALL: Mapping[str, Any] = {
    "models": "efficientnet-lite0",
    "photos": 8,
    "sizes": "160x120",
    "clients": 2,
    "points": "100,1000",
    "queries": 10,
    "workers": "1",
    "stock": 100,
    "starts": 1,
}
"""A run that shows whether everything works, not how fast it is."""


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["compare"]:
        compare.run(arguments[1:])
        return
    options = _options(arguments)
    figures: dict[str, Any] = {"machine": _machine(), "options": _plain(vars(options))}
    for part in options.parts or PARTS:
        figures[part] = PARTS[part](options)
        if options.json:
            options.json.write_text(json.dumps(figures, indent=2, allow_nan=False))


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; all of it if left out")
    parser.add_argument("--small", action="store_true", help="a minute that shows whether all of it works")
    parser.add_argument(
        "--models",
        default=",".join(MODELS),
        help="the packaged one, and architectures of open_clip, which get random weights; comma separated (default, "
        "where open_clip is installed: efficientnet-lite0,ViT-B-32)",
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "int8"],
        default="fp32",
        help="of architectures of open_clip; int8 where it passes the gate on the photographs (default fp32)",
    )
    parser.add_argument("--photos", type=int, default=600, help="photographs to ingest (default 600)")
    parser.add_argument("--sizes", default="640x480,2048x1536,4000x3000", help="of the photographs, comma separated")
    parser.add_argument("--clients", type=int, default=8, help="uploads at a time (default 8)")
    parser.add_argument("--points", default="1000,10000,100000", help="sizes of the index, comma separated")
    parser.add_argument("--queries", type=int, default=200, help="searches, and uploads, timed (default 200)")
    parser.add_argument("--workers", default="1,2,4", help="processes of a split deployment, comma separated")
    parser.add_argument("--stock", type=int, default=10_000, help="images of the server that starts (default 10000)")
    parser.add_argument("--starts", type=int, default=3, help="of which the median is taken (default 3)")
    parser.add_argument("--infinity", type=Path, metavar="PYTHON", help="of an environment that has infinity-emb")
    parser.add_argument("--cache", type=Path, default=_CACHE, help=f"keeps random weights, 0.6 GB each ({_CACHE})")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    if parser.parse_args(arguments).small:
        parser.set_defaults(**SMALL)
    return parser.parse_args(arguments)


_CACHE = Path(tempfile.gettempdir()) / "imgsim-benchmarks"


def _machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "imgsim": imgsim.__version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    names = [line for line in described.read_text().splitlines() if "model name" in line] if described.exists() else []
    return names[0].partition(": ")[2] if names else platform.processor() or platform.machine()


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
