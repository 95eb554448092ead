"""Prometheus metrics of one process."""

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """imgsim's own figures; the HTTP figures come from Litestar's middleware."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.images = Gauge("imgsim_images", "Images by state.", ["state"], registry=self.registry)
        self.queue = Gauge("imgsim_queue_depth", "Bells that ring and are not answered yet.", registry=self.registry)
        self.vectors = Gauge("imgsim_vectors", "Vectors in the index by model.", ["model"], registry=self.registry)
        self.stages = Histogram(
            "imgsim_stage_seconds", "Runs of a stage.", ["stage", "outcome"], registry=self.registry, buckets=_SECONDS
        )

    def observe_stage(self, stage: str, seconds: float, outcome: str) -> None:
        self.stages.labels(stage, outcome).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(REGISTRY) + generate_latest(self.registry)
