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


async def test_a_full_buffer_slows_uploads_down_until_a_picture_goes() -> None:
    buffer = PictureBuffer(max_bytes=100)
    first, second = uuid4(), uuid4()
    buffer.put(first, picture(75))
    buffer.put(second, picture(75))
    started = time.monotonic()
    await buffer.wait_for_room(0.05)
    assert time.monotonic() - started >= 0.05
    waiting = asyncio.create_task(buffer.wait_for_room(60))
    await asyncio.sleep(0)
    assert buffer.pop(second) is None
    assert buffer.pop(first) is not None
    await asyncio.wait_for(waiting, 5)


async def test_a_picture_larger_than_the_buffer_slows_nobody_down() -> None:
    buffer = PictureBuffer(max_bytes=10)
    buffer.put(uuid4(), picture(75))
    await asyncio.wait_for(buffer.wait_for_room(60), 5)


def test_what_nobody_takes_leaves_when_others_need_the_room() -> None:
    buffer, left, new = PictureBuffer(300, keep_seconds=0.0), uuid4(), uuid4()
    buffer.put(left, picture(300))
    time.sleep(0.001)
    buffer.put(new, picture(300))

    assert buffer.pop(left) is None
    assert buffer.pop(new) is not None
