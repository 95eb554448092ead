"""The memory that uploads to S3 share: in turn, bounded, and given back."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from imgsim.adapters.objects.s3_room import Room
from imgsim.core.errors import Overloaded


async def test_those_who_wait_come_in_the_order_of_asking() -> None:
    room, came = Room(10, 30), list[int]()

    async def take(size: int) -> None:
        async with room.taken(size):
            came.append(size)

    async with room.taken(4):
        waiting = [asyncio.create_task(take(size)) for size in (10, 3, 2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert came == [], "the small ones would fit, but keep the large one from ever getting its turn"
    await asyncio.gather(*waiting)
    assert came == [10, 3, 2]


async def test_a_full_room_turns_away_and_is_whole_again() -> None:
    room = Room(10, 0.02)
    async with AsyncExitStack() as held:
        for size in (5, 5):
            await held.enter_async_context(room.taken(size))
        with pytest.raises(Overloaded, match="10 bytes are on their way, and at most 10 may be"):
            async with room.taken(1):
                raise AssertionError
    async with room.taken(10):
        """Nothing of it was lost."""


async def test_what_fails_or_is_cancelled_gives_back() -> None:
    room = Room(10, 30)
    with pytest.raises(ValueError, match="broken"):
        async with room.taken(10):
            raise ValueError("broken")

    async def take() -> None:
        async with room.taken(10):
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(take()) for _ in range(3)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with room.taken(10):
        """Neither the one inside nor those who waited hold any."""
