"""Threads that compute, and waiting for one that must come to its end although its caller is cancelled."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def usable_cores() -> int:
    """The cores that this process may run on, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


COMPUTING = max(2, usable_cores() // 2)
"""Threads of ``compute``: half as many as cores, and never one alone, which a call that hangs would stop."""

_computing = ThreadPoolExecutor(COMPUTING, thread_name_prefix="compute")


async def compute(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function`, which computes for milliseconds, in one of a few threads.

    The model and the decoders have as many as cores of their own; more that compute would only wait for Python's
    lock, each a little longer. What takes long, or might hang, would stop all others: ``asyncio.to_thread`` is for it.
    """
    return await asyncio.get_running_loop().run_in_executor(
        _computing, partial(copy_context().run, function, *args, **kwargs)
    )


async def finished(future: asyncio.Future[T]) -> T:
    """The result of `future`: of a thread that reads what its caller is going to close, or of a task that leaves
    something open where it is cancelled. A cancelled caller leaves when it has ended."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise
