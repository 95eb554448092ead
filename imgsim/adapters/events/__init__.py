"""What carries events between processes, by the scheme of ``jobs.url``."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from imgsim.core.events import EventBus
from imgsim.settings import Settings

Relay = AbstractAsyncContextManager[Any]
"""Entered, it joins the bus with those of the other processes; left, the bus is alone again."""


def _none(settings: Settings, bus: EventBus) -> Relay:
    return nullcontext()


def _redis(settings: Settings, bus: EventBus) -> Relay:
    from imgsim.adapters.events.redis_relay import RedisEventRelay

    return RedisEventRelay(settings.jobs.url, bus)


EVENT_RELAYS: Mapping[str, Callable[[Settings, EventBus], Relay]] = {
    "inprocess": _none,
    "redis": _redis,
    "rediss": _redis,
}
