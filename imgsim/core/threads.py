"""Waiting for a thread that reads what its caller is going to close."""

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def finished(future: asyncio.Future[T]) -> T:
    """The result of `future`, which a thread will set. A cancelled caller leaves when the thread has ended."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise
