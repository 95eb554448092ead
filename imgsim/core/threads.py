"""Waiting for what must come to its end although its caller is cancelled."""

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def finished(future: asyncio.Future[T]) -> T:
    """The result of `future`: of a thread that reads what its caller is going to close, or of a task that leaves
    something open where it is cancelled. A cancelled caller leaves when it has ended."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise
