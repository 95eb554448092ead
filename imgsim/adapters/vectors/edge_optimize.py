"""``python -m imgsim.adapters.vectors.edge_optimize FOLDER``: quantizes the closed shard in FOLDER.

A process of its own, because the engine's ``optimize`` holds the GIL to its end. The shard is on the disk when it
ends with 0.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

import qdrant_edge as edge

from imgsim.adapters.vectors.edge_files import sync_tree

NICENESS = 10
"""A tenth of a core beside a busy process: at 19 it is a hundredth, and 100,000 points take minutes instead of 30 s."""


def main(path: Path) -> None:
    os.nice(NICENESS)
    _die_with_parent()
    shard = edge.EdgeShard.load(str(path))
    shard.optimize()
    shard.flush()
    shard.close()
    sync_tree(path)


def _die_with_parent() -> None:
    """On Linux, end when the parent is killed; elsewhere this process ends its work on a shard that nobody wants."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    main(Path(sys.argv[1]))
