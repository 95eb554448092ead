"""A worker under Arq's own command line, in place of ``imgsim worker``: ``arq imgsim.worker.WorkerSettings``.

Settings come from ``IMGSIM_CONFIG`` and the environment.
"""

from contextlib import AsyncExitStack
from typing import Any

from imgsim.container import Container
from imgsim.roles import WORKER
from imgsim.running import opened, tending
from imgsim.settings import load_settings

_settings = load_settings()
_container = Container(settings=_settings, role=WORKER)
_open = AsyncExitStack()


async def _start(ctx: dict[str, Any]) -> None:
    await _open.enter_async_context(opened(_container, patient=True))
    await _open.enter_async_context(tending(_container))
    ctx["calls"] = await _open.enter_async_context(_container.arq_calls(redis=ctx["redis"]))


async def _stop(ctx: dict[str, Any]) -> None:
    await _open.aclose()


WorkerSettings: dict[str, Any] = {
    **_container.arq_options(),
    "max_jobs": _settings.jobs.concurrency,
    "job_completion_wait": _settings.jobs.drain_seconds,
    "on_startup": _start,
    "on_shutdown": _stop,
}
