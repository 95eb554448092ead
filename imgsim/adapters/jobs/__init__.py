"""Job queues by URL scheme."""

from collections.abc import Callable, Mapping

from imgsim.core.ports import JobQueue
from imgsim.settings import Settings


def _inprocess(settings: Settings) -> JobQueue:
    from imgsim.adapters.jobs.inprocess import InProcessJobQueue

    return InProcessJobQueue()


def _redis(settings: Settings) -> JobQueue:
    from imgsim.adapters.jobs.arq_queue import ArqJobQueue

    return ArqJobQueue(settings.jobs.url, settings.jobs.lease_seconds)


JOB_QUEUES: Mapping[str, Callable[[Settings], JobQueue]] = {"inprocess": _inprocess, "redis": _redis, "rediss": _redis}
"""What makes the queue that the settings describe, by the scheme of ``jobs.url``."""
