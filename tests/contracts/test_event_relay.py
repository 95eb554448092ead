"""Events reach the listeners of every process, through a real Redis, and survive its absence."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from uuid import UUID, uuid4

import pytest
import redis

from imgsim.adapters.events import EVENT_RELAYS
from imgsim.adapters.events.redis_relay import STREAM
from imgsim.core.errors import SettingsError
from imgsim.core.events import EventBus, EventId, Listener
from imgsim.core.models import ImageError, ImageEvent
from imgsim.settings import Jobs, Settings
from tests.servers import Valkey, free_port


def event(image_id: UUID | None = None, state: str = "done") -> ImageEvent:
    error = ImageError("embed", "timeout", "It took longer than 1 s.", 3) if state == "error" else None
    return ImageEvent(image_id or uuid4(), "default", state, None, error, datetime.now(UTC))


@pytest.fixture
def url(valkey: Valkey) -> Iterator[str]:
    """A database that is empty, and of this test alone."""
    url = valkey.url.removesuffix("/0") + "/9"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    with Valkey() as running:
        yield running


@asynccontextmanager
async def buses(url: str, number: int = 2) -> AsyncIterator[list[EventBus]]:
    """As many processes would have."""
    settings = Settings(jobs=Jobs(url=url))
    async with AsyncExitStack() as stack:
        made = [EventBus() for _ in range(number)]
        for bus in made:
            await stack.enter_async_context(EVENT_RELAYS[url.partition(":")[0]](settings, bus))
        yield made


async def heard(listener: Listener, number: int, seconds: float = 10.0) -> list[ImageEvent | None]:
    async with asyncio.timeout(seconds):
        return [await listener.next() for _ in range(number)]


async def nothing_more(listener: Listener) -> bool:
    try:
        async with asyncio.timeout(0.3):
            await listener.next()
    except TimeoutError:
        return True
    return False


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (conditions of any kind have no event)
            await asyncio.sleep(0.01)


async def hears_of_each_other(one: EventBus, other: EventBus, listener: Listener) -> None:
    """Publish in `one` until the listener of `other` hears it."""
    async with asyncio.timeout(15):
        for number in count():
            one.publish(event(state=f"try {number}"))
            try:
                async with asyncio.timeout(0.2):
                    await listener.next()
                    return
            except TimeoutError:
                continue


async def test_an_event_is_heard_in_every_process_once_in_order_and_within_a_second(url: str) -> None:
    events = [event(state=state) for state in ("created", "pending", "error")]
    async with buses(url) as (one, other):
        with one.listen() as here, other.listen() as there:
            await here.ready()
            await there.ready()
            for each in events:
                one.publish(each)
            assert await heard(there, 3, seconds=1) == events
            assert await heard(here, 3, seconds=1) == events
            assert await nothing_more(here)


async def test_its_id_is_the_same_in_every_process(url: str) -> None:
    async with buses(url) as (one, other):
        with one.listen() as here, other.listen() as there:
            await here.ready()
            await there.ready()
            ids = []
            for bus in (one, other, one):
                bus.publish(event())
                await heard(here, 1)
                await heard(there, 1)
                assert here.position == there.position
                ids.append(here.position)
    assert ids == sorted(set(ids))


async def test_who_listens_for_one_image_hears_of_no_other(url: str) -> None:
    mine = uuid4()
    async with buses(url) as (one, other):
        with other.listen(mine) as listener:
            await listener.ready()
            one.publish(event())
            one.publish(told := event(mine))
            assert await heard(listener, 1) == [told]


async def test_events_from_before_are_not_told(url: str) -> None:
    async with buses(url) as (one, other):
        one.publish(event())
        await until(lambda: not one._relay._outgoing)  # type: ignore[union-attr]
        with one.listen() as here, other.listen() as there:
            await here.ready()
            await there.ready()
            one.publish(told := event())
            assert await heard(here, 1) == await heard(there, 1) == [told]


async def test_who_comes_back_hears_what_it_missed_and_what_follows_without_gap_or_repeat(url: str) -> None:
    events = [event(state=f"{number}") for number in range(3000)]
    async with buses(url, 3) as (one, two, three):
        with two.listen() as listener:
            await listener.ready()
            for each in events[:10]:
                one.publish(each)
            assert await heard(listener, 10) == events[:10]
            last = listener.position
        for each in events[10:2500]:
            one.publish(each)

        async def publish_the_rest() -> None:
            for each in events[2500:]:
                one.publish(each)
                await asyncio.sleep(0.0005)

        publishing = asyncio.create_task(publish_the_rest())
        with two.listen(after=last) as back, three.listen(after=last) as elsewhere:
            assert await heard(back, 2990) == events[10:]
            assert await heard(elsewhere, 2990) == events[10:]
            assert await nothing_more(back)
        await publishing


async def test_an_id_that_is_too_old_starts_with_what_is_there(url: str) -> None:
    async with buses(url, 1) as (bus,):
        bus.publish(told := event())
        with bus.listen(after=EventId(1, 0)) as listener:
            await until(lambda: not bus._relay._outgoing)  # type: ignore[union-attr]
            assert await heard(listener, 1) == [told]


async def test_a_listener_that_does_not_read_is_cut_off(url: str) -> None:
    async with buses(url) as (one, other):
        with other.listen() as slow, one.listen() as here:
            await slow.ready()
            await here.ready()
            for _ in range(1500):
                one.publish(event())
                if len(one._relay._outgoing) > 500:  # type: ignore[union-attr]
                    await heard(here, 1)
            await until(lambda: slow._queue.qsize() > 1000)
            assert (await heard(slow, 1001))[-1] is None


async def test_an_entry_that_cannot_be_read_is_passed_over(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with buses(url, 1) as (bus,):
        with bus.listen() as listener, bus.listen(after=EventId(1, 0)) as behind, redis.Redis.from_url(url) as client:
            await listener.ready()
            client.xadd(STREAM, {"event": '{"of": "the future"}'})
            client.xadd(STREAM, {"nothing": "known"})
            bus.publish(told := event())
            assert await heard(listener, 1) == await heard(behind, 1) == [told]
    assert "cannot be read" in caplog.text


async def test_the_last_events_of_a_process_that_stops_are_heard(url: str) -> None:
    events = [event() for _ in range(700)]
    async with buses(url, 1) as (one,):
        with one.listen() as listener:
            await listener.ready()
            async with buses(url, 1) as (stopping,):
                for each in events:
                    stopping.publish(each)
            assert await heard(listener, 700) == events


async def test_the_stream_is_bounded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgsim.adapters.events.redis_relay._KEPT", 500)
    async with buses(url, 1) as (bus,):
        for _ in range(3000):
            bus.publish(event())
        await until(lambda: not bus._relay._outgoing)  # type: ignore[union-attr]
    with redis.Redis.from_url(url) as client:
        assert 500 <= client.xlen(STREAM) < 1000


# Redis away


async def test_redis_killed_and_restarted_under_listeners(own_valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with buses(own_valkey.url) as (one, other):
        with one.listen() as here, other.listen() as there:
            await here.ready()
            await there.ready()
            one.publish(first := event(state="before"))
            assert await heard(here, 1) == await heard(there, 1) == [first]

            own_valkey.kill()
            during = [event(state=f"during {number}") for number in range(20)]
            for each in during:
                one.publish(each)
                await asyncio.sleep(0.01)
            assert await heard(here, 20, seconds=3) == during, "events of this process need no Redis"

            own_valkey.start()
            assert await heard(there, 20) == during, "the others hear them when it is back"
            one.publish(last := event(state="after"))
            assert await heard(here, 1) == [last], "and here they are not told again"
            assert await heard(there, 1) == [last]
    assert caplog.text.count("events stay in this process") == 1


async def test_redis_flushed_under_listeners(own_valkey: Valkey) -> None:
    async with buses(own_valkey.url) as (one, other):
        with other.listen() as there:
            await there.ready()
            one.publish(event())
            await heard(there, 1)
            own_valkey.flush()
            one.publish(told := event())
            assert await heard(there, 1) == [told]


async def test_opening_and_listening_need_no_redis(own_valkey: Valkey) -> None:
    own_valkey.kill()
    async with buses(own_valkey.url) as (one, other):
        with one.listen() as here, other.listen() as there:
            await asyncio.wait_for(asyncio.gather(here.ready(), there.ready()), 3)
            one.publish(told := event())
            assert await heard(here, 1, seconds=3) == [told]
            own_valkey.start()
            assert await heard(there, 1) == [told]
            await hears_of_each_other(other, one, here)


async def test_who_comes_back_while_redis_is_away_hears_what_it_missed_when_redis_is_back(own_valkey: Valkey) -> None:
    async with buses(own_valkey.url) as (one, other):
        with other.listen() as there:
            await there.ready()
            one.publish(event())
            await heard(there, 1)
            last = there.position
        one.publish(missed := event(state="missed"))
        await until(lambda: not one._relay._outgoing)  # type: ignore[union-attr]
        own_valkey.kill()
        with other.listen(after=last) as back:
            assert await nothing_more(back)
            own_valkey.start()
            other.publish(follows := event(state="follows"))
            assert await heard(back, 2) == [missed, follows]


async def test_memory_is_bounded_while_redis_is_away(own_valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    own_valkey.kill()
    async with buses(own_valkey.url) as (one, other):
        with other.listen() as there:
            await there.ready()
            events = [event(state=f"{number}") for number in range(12_000)]
            for each in events:
                one.publish(each)
            assert len(one._relay._outgoing) == 10_000  # type: ignore[union-attr]
            assert caplog.text.count("older ones are dropped") == 1
            own_valkey.start()
            assert await heard(there, 500) == events[2000:2500]


async def test_stopping_does_not_wait_long_for_redis(own_valkey: Valkey) -> None:
    async with asyncio.timeout(3):
        async with buses(own_valkey.url, 1) as (bus,):
            own_valkey.kill()
            bus.publish(event())


async def test_the_password_is_never_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"redis://imgsim:tops3cret@127.0.0.1:{free_port()}/0"
    async with buses(url, 1) as (bus,):
        with bus.listen() as listener:
            await listener.ready()
            bus.publish(event())
            await heard(listener, 1)
    assert "127.0.0.1" in caplog.text
    assert "tops3cret" not in caplog.text


@pytest.mark.parametrize(
    "url", ["redis://:tops3/cret@host:6379", "redis://host:6379?socket_timeout=tops3", "redis://h?x=1"]
)
async def test_a_url_that_is_none_is_a_settings_error_without_the_password(url: str) -> None:
    with pytest.raises(SettingsError, match=r"jobs\.url") as caught:
        async with buses(url):
            pass
    assert "tops3" not in str(caught.value)


async def test_inprocess_needs_nothing_but_the_bus() -> None:
    async with buses("inprocess://", 1) as (bus,):
        with bus.listen() as listener:
            await listener.ready()
            bus.publish(told := event())
            assert await heard(listener, 1) == [told]
