"""``python -m tests.benchmarks.encode_folder DIR OUT.npz``: the embedding of every photograph below DIR,
obtained through ``POST /encode`` of a server that it starts.

OUT.npz holds ``paths`` (relative to DIR) and ``vectors`` (n x d float32), as evaluation scripts want them.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np

from tests.processes import ImgsimServer

_AT_ONCE = 16
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def encode(client: httpx.Client, photographs: list[Path]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    with ExitStack() as opened:
        files = [("file", (path.name, opened.enter_context(path.open("rb")))) for path in photographs]
        response = client.post("/encode", files=files, headers={"Accept": "application/octet-stream"})
    response.raise_for_status()
    return np.frombuffer(response.content, "<f4").reshape(len(photographs), -1)


def groups(photographs: list[Path]) -> Iterator[list[Path]]:
    for start in range(0, len(photographs), _AT_ONCE):
        yield photographs[start : start + _AT_ONCE]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.encode_folder", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    photographs = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    with (
        tempfile.TemporaryDirectory() as folder,
        ImgsimServer(Path(folder) / "data") as server,
        server.client() as client,
    ):
        started = time.perf_counter()
        vectors = np.concatenate([encode(client, group) for group in groups(photographs)])
        seconds = time.perf_counter() - started
    np.savez(options.out, paths=[path.relative_to(options.folder).as_posix() for path in photographs], vectors=vectors)
    print(
        f"{len(photographs)} photographs in {seconds:.1f} s, {len(photographs) / seconds:.1f} a second: {options.out}"
    )


if __name__ == "__main__":
    main()
