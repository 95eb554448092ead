"""Prometheus metrics of one process."""

import asyncio
import time

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram, generate_latest

from imgsim.core.ports import ImageRepository, VectorIndex

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


_LONG, _TIMES_AS_LONG = 0.5, 20


class Metrics:
    """imgsim's own figures; the HTTP figures come from Litestar's middleware."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counting = asyncio.Lock()
        self._counted_until = 0.0
        self.images = Gauge("imgsim_images", "Images by state.", ["state"], registry=self.registry)
        self.queue = Gauge("imgsim_queue_depth", "Bells that ring and are not answered yet.", registry=self.registry)
        self.vectors = Gauge("imgsim_vectors", "Vectors in the index by model.", ["model"], registry=self.registry)
        self.stages = Histogram(
            "imgsim_stage_seconds", "Runs of a stage.", ["stage", "outcome"], registry=self.registry, buckets=_SECONDS
        )

    async def count(self, images: ImageRepository, vectors: VectorIndex) -> None:
        """Set the figures of the stock. Where counting takes long, they stand for twenty times as long: frequent
        scrapes of a large stock must not keep the database counting."""
        async with self._counting:
            started = time.monotonic()
            if started < self._counted_until:
                return
            for state, count in (await images.counts()).items():
                self.images.labels(state.value).set(count)
            for model in await vectors.models():
                self.vectors.labels(model).set(await vectors.count(model))
            ended = time.monotonic()
            if ended - started > _LONG:
                self._counted_until = ended + _TIMES_AS_LONG * (ended - started)

    def observe_stage(self, stage: str, seconds: float, outcome: str) -> None:
        self.stages.labels(stage, outcome).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(REGISTRY) + generate_latest(self.registry)
