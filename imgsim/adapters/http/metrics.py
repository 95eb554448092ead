"""Prometheus metrics of one process."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from prometheus_client import REGISTRY, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from imgsim.core.errors import Unavailable
from imgsim.core.ports import ImageRepository, JobQueue, VectorIndex

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SECONDS_TO_WAIT = 2.0
"""For figures, by a scrape: Prometheus gives all of one 10 s."""
_SECONDS_TO_COUNT = 60.0
_LONG, _TIMES_AS_LONG = 0.5, 20

Ask = Callable[[], Awaitable[Metric]]


class Metrics:
    """imgsim's own figures; the HTTP figures come from Litestar's middleware."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.stock = Stock()
        self.registry.register(self.stock)
        self.stages = Histogram(
            "imgsim_stage_seconds", "Runs of a stage.", ["stage", "outcome"], registry=self.registry, buckets=_SECONDS
        )

    def observe_stage(self, stage: str, seconds: float, outcome: str) -> None:
        self.stages.labels(stage, outcome).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(REGISTRY) + generate_latest(self.registry)


class Stock:
    """What all processes share: images, vectors and bells, as the parts that keep them said when last asked.

    A part that does not answer has no figures, and is 0 in ``imgsim_stock_up``.
    """

    def __init__(self) -> None:
        self._asked: Sequence[str] = ()
        self._told: dict[str, Metric] = {}
        self._counting: dict[str, asyncio.Task[None]] = {}
        self._stands_until: dict[str, float] = {}

    async def ask(self, images: ImageRepository, vectors: VectorIndex, jobs: JobQueue) -> None:
        """Have every part count, and wait 2 s at most: what takes longer goes on, and its last figures stand.

        Figures that took long stand for twenty times as long: frequent scrapes of a large stock must not keep the
        database counting.
        """
        questions: Mapping[str, Ask] = {
            "database": lambda: _images(images),
            "vectors": lambda: _vectors(vectors),
            "jobs": lambda: _queue(jobs),
        }
        self._asked = [*questions]
        for part, ask in questions.items():
            if part not in self._counting and time.monotonic() >= self._stands_until.get(part, 0.0):
                self._counting[part] = asyncio.create_task(self._count(part, ask))
        if self._counting:
            done, _ = await asyncio.wait(self._counting.values(), timeout=_SECONDS_TO_WAIT)
            for task in done:
                task.result()

    async def _count(self, part: str, ask: Ask) -> None:
        started = time.monotonic()
        try:
            async with asyncio.timeout(_SECONDS_TO_COUNT):
                self._told[part] = await ask()
            took = time.monotonic() - started
            if took > _LONG:
                self._stands_until[part] = started + took + _TIMES_AS_LONG * took
        except (Unavailable, TimeoutError):
            self._told.pop(part, None)
        finally:
            del self._counting[part]

    def collect(self) -> Iterator[Metric]:
        """Nothing in a process that nobody asks for the stock."""
        if self._asked:
            up = GaugeMetricFamily("imgsim_stock_up", "Whether this part tells its figures.", labels=["part"])
            for part in self._asked:
                up.add_metric([part], part in self._told)
            yield up
        yield from self._told.values()


async def _images(images: ImageRepository) -> Metric:
    family = GaugeMetricFamily("imgsim_images", "Images by state.", labels=["state"])
    for state, count in (await images.counts()).items():
        family.add_metric([state.value], count)
    return family


async def _vectors(vectors: VectorIndex) -> Metric:
    family = GaugeMetricFamily("imgsim_vectors", "Vectors in the index by model.", labels=["model"])
    for model in await vectors.models():
        family.add_metric([model], await vectors.count(model))
    return family


async def _queue(jobs: JobQueue) -> Metric:
    return GaugeMetricFamily(
        "imgsim_queue_depth", "Bells that ring and are not answered yet.", value=await jobs.depth()
    )
