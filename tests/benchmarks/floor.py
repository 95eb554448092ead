"""The floor: decode and embed in a bare loop, one thread a core, nothing else; or with the other stages' work, too."""

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from imgsim.adapters.images import read_image
from imgsim.core.models import Picture
from imgsim.core.thumbnails import SMALL
from imgsim.fingerprints import take_fingerprint
from imgsim.thumbnails import encode_thumbnail

Embed = Callable[[Sequence[Picture]], object]
"""Computes the vectors of some pictures, in any thread."""

BATCHES = (1, 4)
_SMALLEST_SIDE = 448


@dataclass(frozen=True, slots=True)
class Floor:
    per_second: float
    cpu_ms: float
    """Of one photograph."""


def best_floor(runs: Sequence[Mapping[int, Floor]]) -> Floor:
    """The mean over the runs of the batch size that is fastest over all of them."""
    means = [
        Floor(_mean([run[batch].per_second for run in runs]), _mean([run[batch].cpu_ms for run in runs]))
        for batch in BATCHES
    ]
    return max(means, key=lambda floor: floor.per_second)


def run_floors(photographs: Sequence[bytes], count: int, embed: Embed) -> dict[int, Floor]:
    """The floor over `count` photographs by batch size."""
    return {batch: run_floor(photographs, count, batch, embed) for batch in BATCHES}


def with_stages(embed: Embed) -> Embed:
    """`embed`, and what the stages ``thumbnail`` and ``fingerprint`` make of the same pictures."""

    def work(pictures: Sequence[Picture]) -> None:
        embed(pictures)
        for picture in pictures:
            height, width, _ = picture.shape
            encode_thumbnail(picture, *SMALL.fit(width, height), SMALL.effort)
            fingerprint = take_fingerprint(picture)
            assert fingerprint is not None
            fingerprint.to_json()

    return work


def run_floor(photographs: Sequence[bytes], count: int, batch: int, embed: Embed) -> Floor:
    todo: queue.SimpleQueue[Sequence[bytes]] = queue.SimpleQueue()
    chosen = list(islice(cycle(photographs), count))
    for start in range(0, count, batch):
        todo.put(chosen[start : start + batch])
    errors: list[Exception] = []

    def work() -> None:
        try:
            while True:
                embed([_decode(data) for data in todo.get_nowait()])
        except queue.Empty:
            return
        except Exception as error:  # raised again below, in the thread that is measured
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(cores())]
    started, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return Floor(count / (time.perf_counter() - started), (time.process_time() - cpu) / count * 1e3)


def _decode(data: bytes) -> Picture:
    found = read_image(data, max_pixels=10**9, min_side=_SMALLEST_SIDE)
    assert found is not None
    return found.picture


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def cores() -> int:
    return len(os.sched_getaffinity(0))
