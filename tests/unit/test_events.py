"""State changes reach whoever listens, without a relay and through one that a test moves."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from imgsim.core.errors import InvalidRequest
from imgsim.core.events import Entry, EventBus, EventId, Listener
from imgsim.core.models import ImageEvent


def event(image_id: UUID, state: str = "done") -> ImageEvent:
    return ImageEvent(image_id, "default", state, None, None, datetime.now(UTC))


async def silent(listener: Listener) -> bool:
    try:
        async with asyncio.timeout(0.01):
            await listener.next()
    except TimeoutError:
        return True
    return False


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


# ids, and what was missed


async def test_ids_are_times_that_only_grow() -> None:
    bus, ids = EventBus(), []
    began = EventId.now()
    with bus.listen() as listener:
        for _ in range(500):
            bus.publish(event(uuid4()))
            await listener.next()
            ids.append(listener.position)
    assert ids == sorted(set(ids))
    assert began <= ids[0] <= ids[-1] <= EventId.now()._replace(number=500)
    assert EventId.parse(str(ids[-1])) == ids[-1]


@pytest.mark.parametrize(
    "text", ["", "1", "-", "1-", "-1", "1-2-3", "a-b", "1.5-0", " 1-0", "1-0\n", "١-٢", "1" * 30 + "-0", "$", "+"]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        EventId.parse(text)


async def test_what_came_after_an_event_is_told_first_then_what_comes() -> None:
    bus, mine = EventBus(), uuid4()
    events = [event(mine, f"{number}") for number in range(2500)]
    with bus.listen() as listener:
        bus.publish(events[0])
        await listener.next()
        last = listener.position
    for each in events[1:2400]:
        bus.publish(each)
        bus.publish(event(uuid4()))
    with bus.listen(mine, after=last) as back:
        heard = [await back.next() for _ in range(1200)]
        for each in events[2400:]:
            bus.publish(each)
        heard += [await back.next() for _ in range(1299)]
        assert heard == events[1:]
        assert await silent(back)


async def test_after_an_id_of_long_ago_all_that_is_remembered_is_told() -> None:
    bus = EventBus()
    for number in range(10_500):
        bus.publish(event(uuid4(), f"{number}"))
    with bus.listen(after=EventId(1, 0)) as listener:
        first = await listener.next()
        rest = [await listener.next() for _ in range(9999)]
    assert first is not None
    assert rest[-1] is not None
    assert (first.state, rest[-1].state) == ("500", "10499")


async def test_after_an_id_of_the_future_only_what_comes_later_is_told() -> None:
    bus = EventBus()
    bus.publish(event(uuid4()))
    with bus.listen(after=EventId(2**62, 0)) as listener:
        assert await silent(listener)


async def test_next_may_be_cancelled_without_loss() -> None:
    bus = EventBus()
    events = [event(uuid4(), f"{number}") for number in range(50)]
    with bus.listen(after=EventId(1, 0)) as listener:
        heard = []
        for each in events:
            assert await silent(listener)
            bus.publish(each)
            heard.append(await listener.next())
    assert heard == events


async def test_closing_the_bus_ends_a_listener_that_still_catches_up() -> None:
    bus = EventBus()
    for _ in range(5):
        bus.publish(event(uuid4()))
    with bus.listen(after=EventId(1, 0)) as listener:
        bus.close()
        assert await listener.next() is None


# through a relay


class HandRelay:
    """Holds every event until the test moves it."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self.stream: list[Entry] = []
        self.told = 0
        self.followed = 0

    def send(self, event: ImageEvent) -> None:
        self.stream.append(Entry(EventId(1000, len(self.stream)), event))

    async def follow(self) -> None:
        self.followed += 1

    async def read(self, after: EventId, limit: int) -> Sequence[Entry]:
        await asyncio.sleep(0)
        return [entry for entry in self.stream if entry.id > after][:limit]

    def move(self, number: int = 1) -> None:
        for entry in self.stream[self.told : self.told + number]:
            self.bus.tell(entry)
        self.told += number


async def test_with_a_relay_events_are_heard_when_it_brings_them_back() -> None:
    bus = EventBus()
    relay = HandRelay(bus)
    bus.join(relay)
    with bus.listen() as listener:
        await listener.ready()
        assert relay.followed == 1
        bus.publish(told := event(uuid4()))
        assert await silent(listener)
        relay.move()
        assert await listener.next() == told
        assert str(listener.position) == "1000-0"


async def test_what_was_read_from_the_past_is_not_told_again_when_it_arrives() -> None:
    bus = EventBus()
    relay = HandRelay(bus)
    bus.join(relay)
    events = [event(uuid4(), f"{number}") for number in range(6)]
    for each in events[:4]:
        bus.publish(each)
    relay.move(2)
    with bus.listen(after=EventId(1000, 0)) as listener:
        assert [await listener.next() for _ in range(3)] == events[1:4]
        for each in events[4:]:
            bus.publish(each)
        relay.move(4)
        assert [await listener.next() for _ in range(2)] == events[4:]
        assert await silent(listener)


async def test_a_bus_that_left_its_relay_is_alone_again() -> None:
    bus = EventBus()
    bus.join(HandRelay(bus))
    bus.join(None)
    with bus.listen() as listener:
        bus.publish(told := event(uuid4()))
        assert await listener.next() == told
