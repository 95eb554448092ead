"""Decoded pictures between the upload and the first stage take bounded memory."""

import asyncio
import time
from uuid import uuid4

import numpy as np

from imgsim.core.models import Picture
from imgsim.core.pictures import PictureBuffer


def picture(size: int) -> Picture:
    """A picture of `size` bytes."""
    return np.zeros((size // 3, 1, 3), np.uint8)


def test_a_picture_is_given_out_once() -> None:
    buffer, image_id, kept = PictureBuffer(300), uuid4(), picture(300)
    buffer.put(image_id, kept)

    assert buffer.pop(image_id) is kept
    assert buffer.pop(image_id) is None


def test_what_does_not_fit_is_not_kept_and_the_oldest_stay() -> None:
    buffer, old, new = PictureBuffer(300), uuid4(), uuid4()
    buffer.put(old, picture(200))
    buffer.put(new, picture(150))

    assert buffer.pop(new) is None
    assert buffer.pop(old) is not None


def test_what_is_taken_out_makes_room() -> None:
    buffer, first, second = PictureBuffer(300), uuid4(), uuid4()
    for _ in range(10):
        buffer.put(first, picture(300))
        buffer.put(second, picture(3))
        assert buffer.pop(second) is None
        assert buffer.pop(first) is not None


def test_the_same_image_twice_takes_its_place_once() -> None:
    buffer, image_id, other = PictureBuffer(300), uuid4(), uuid4()
    buffer.put(image_id, first := picture(150))
    buffer.put(image_id, picture(150))
    buffer.put(other, picture(150))

    assert buffer.pop(image_id) is first
    assert buffer.pop(other) is not None


def test_a_buffer_of_no_bytes_keeps_nothing() -> None:
    buffer, image_id = PictureBuffer(0), uuid4()
    buffer.put(image_id, picture(3))

    assert buffer.pop(image_id) is None


async def enter(buffer: PictureBuffer, seconds: float, entered: list[int], number: int, leave: asyncio.Event) -> None:
    async with buffer.room(seconds):
        entered.append(number)
        await leave.wait()


async def test_a_full_buffer_slows_uploads_down_until_a_picture_goes() -> None:
    buffer, first = PictureBuffer(max_bytes=100), uuid4()
    buffer.put(first, picture(75))
    started = time.monotonic()
    async with buffer.room(0.05):
        assert time.monotonic() - started >= 0.05
    entered: list[int] = []
    leave = asyncio.Event()
    waiting = [asyncio.create_task(enter(buffer, 60, entered, number, leave)) for number in range(3)]
    await asyncio.sleep(0.01)
    assert entered == []
    assert buffer.pop(first) is not None
    await asyncio.sleep(0.01)
    assert entered == [0, 1, 2]  # an empty buffer takes anybody
    leave.set()
    await asyncio.gather(*waiting)


async def test_room_that_one_was_promised_is_given_to_no_other() -> None:
    buffer, kept = PictureBuffer(max_bytes=225), [uuid4(), uuid4(), uuid4()]
    for image_id in kept:
        buffer.put(image_id, picture(75))
    entered: list[int] = []
    leave = asyncio.Event()
    waiting = [asyncio.create_task(enter(buffer, 60, entered, number, leave)) for number in range(3)]
    await asyncio.sleep(0.01)
    buffer.pop(kept[0])
    await asyncio.sleep(0.01)
    assert entered == [0]
    waiting[1].cancel()  # its client has gone
    buffer.pop(kept[1])
    await asyncio.sleep(0.01)
    assert entered == [0, 2]
    leave.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(5), buffer.room(60):
        buffer.put(uuid4(), picture(75))


async def test_a_picture_larger_than_the_buffer_slows_nobody_down() -> None:
    buffer = PictureBuffer(max_bytes=10)
    buffer.put(uuid4(), picture(75))
    async with asyncio.timeout(5), buffer.room(60):
        pass


def test_what_nobody_takes_leaves_when_others_need_the_room() -> None:
    buffer, left, new = PictureBuffer(300, keep_seconds=0.0), uuid4(), uuid4()
    buffer.put(left, picture(300))
    time.sleep(0.001)
    buffer.put(new, picture(300))

    assert buffer.pop(left) is None
    assert buffer.pop(new) is not None
