"""State changes reach whoever listens in this process."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from imgsim.core.events import EventBus
from imgsim.core.models import ImageEvent


def event(image_id: UUID, state: str = "done") -> ImageEvent:
    return ImageEvent(image_id, "default", state, None, None, datetime.now(UTC))


async def test_every_listener_hears_every_event_in_order() -> None:
    bus = EventBus()
    events = [event(uuid4()) for _ in range(3)]
    with bus.listen() as one, bus.listen() as two:
        for each in events:
            bus.publish(each)

        assert [await one.next() for _ in events] == events
        assert [await two.next() for _ in events] == events


async def test_whoever_listens_for_one_image_hears_of_no_other() -> None:
    bus, mine, other = EventBus(), uuid4(), uuid4()
    with bus.listen(mine) as listener:
        bus.publish(event(other))
        bus.publish(told := event(mine))

        assert await listener.next() == told


async def test_events_from_before_are_not_told() -> None:
    bus = EventBus()
    bus.publish(event(uuid4()))
    with bus.listen() as listener:
        bus.publish(told := event(uuid4()))

        assert await listener.next() == told


async def test_next_waits_for_an_event() -> None:
    bus = EventBus()
    with bus.listen() as listener:
        waiting = asyncio.create_task(listener.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        bus.publish(told := event(uuid4()))

        assert await waiting == told


async def test_whoever_stopped_listening_costs_nothing() -> None:
    bus = EventBus()
    with bus.listen() as listener:
        pass
    bus.publish(event(uuid4()))

    with pytest.raises(asyncio.TimeoutError):
        async with asyncio.timeout(0.01):
            await listener.next()


async def test_a_listener_that_falls_too_far_behind_is_cut_off_once_and_the_others_are_not() -> None:
    bus, mine = EventBus(), uuid4()
    with bus.listen() as slow, bus.listen(mine) as other:
        for _ in range(1500):
            bus.publish(event(uuid4()))
        bus.publish(told := event(mine))

        assert await other.next() == told
        heard = [await slow.next() for _ in range(1001)]
        assert heard[-1] is None
        assert None not in heard[:-1]
        bus.publish(event(uuid4()))
        assert slow._queue.empty(), "nothing more is kept for it"


async def test_closing_the_bus_ends_every_listener_after_what_it_was_told() -> None:
    bus = EventBus()
    with bus.listen() as one, bus.listen(uuid4()) as two:
        bus.publish(told := event(uuid4()))
        bus.close()

        assert [await one.next(), await one.next()] == [told, None]
        assert await two.next() is None


async def test_without_listeners_events_go_nowhere() -> None:
    EventBus().publish(event(uuid4()))
