"""``python -m tests.benchmarks``: measures this machine, prints a table, and writes JSON on request.

Nothing is asserted: figures are read by people, and compared as ratios within one run.
"""

import argparse
import json
import platform
from pathlib import Path

from tests.benchmarks import ingest, search, split

PARTS = {"ingest": ingest.run, "search": search.run, "split": split.run}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; all of it if left out")
    parser.add_argument("--photos", type=int, default=600, help="photographs to ingest (default 600)")
    parser.add_argument("--sizes", default="640x480,2048x1536", help="sizes of the photographs, comma separated")
    parser.add_argument("--clients", type=int, default=8, help="uploads at a time (default 8)")
    parser.add_argument("--points", default="1000,10000,100000", help="sizes of the index, comma separated")
    parser.add_argument("--queries", type=int, default=200, help="searches measured at each size (default 200)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    figures = {
        "machine": {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
    }
    for part in options.parts or PARTS:
        figures[part] = PARTS[part](options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
