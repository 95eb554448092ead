"""Server-sent events: one per state change."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Controller, get
from litestar.params import FromPath, HeaderParameter
from litestar.response import ServerSentEvent
from litestar.response import ServerSentEventMessage as Message

from imgsim.adapters.http import openapi
from imgsim.adapters.http.services import Injected
from imgsim.core.errors import Unavailable
from imgsim.core.events import EventId, Listener
from imgsim.core.models import ImageEvent
from imgsim.core.ports import ImageRepository

_AT_REST = {"done", "error", "deleted"}
_STREAM = openapi.answer(str, "Server-sent events", "text/event-stream")
_SECONDS_BETWEEN_COMMENTS = 15.0  # so that proxies do not close a quiet stream
_SECONDS_BETWEEN_LOOKS = 2.0

LastEventId = Annotated[
    str | None,
    HeaderParameter(
        name="Last-Event-ID",
        description="The id of the last event that you got, as browsers send it: what came after it is told first.",
    ),
]


class EventsController(Controller):
    tags = ["events"]

    @get(
        "/images/{image_id:uuid}/events",
        summary="State changes of one image",
        responses={200: _STREAM, **openapi.problems(404)},
    )
    async def of_image(self, services: Injected, image_id: FromPath[UUID]) -> ServerSentEvent:
        """First the present state, then one event per change; ends when the image is done, in error or deleted."""
        image = await services.images().get(image_id)  # 404 before the stream begins

        async def stream() -> AsyncIterator[Message]:
            with services.events().listen(image_id) as listener:
                await listener.ready()
                # Read again now that nothing can slip in between.
                told = await _present(services.images(), ImageEvent.of(image))
                yield _message(told)
                if told.state not in _AT_REST:
                    async for message in _with_comments(_changes(services.images(), listener, told)):
                        yield message

        return ServerSentEvent(stream(), headers={"Cache-Control": "no-store"})

    @get("/events", summary="State changes of all images", responses={200: _STREAM, **openapi.problems()})
    async def of_all(self, services: Injected, last_event_id: LastEventId = None) -> ServerSentEvent:
        """From now on, until you close the stream. The name of an event is the new state, its data JSON.

        After a break, send the id of the last event that you got as ``Last-Event-ID`` (browsers do): you are
        told what you missed, as far back as it is remembered.
        """
        after = EventId.parse(last_event_id) if last_event_id else None

        async def stream() -> AsyncIterator[Message]:
            with services.events().listen(after=after) as listener:
                await listener.ready()
                yield Message(data=None, comment="listening")
                async for message in _with_comments(_events(listener)):
                    yield message

        return ServerSentEvent(stream(), headers={"Cache-Control": "no-store"})


async def _heard(listener: Listener) -> AsyncIterator[ImageEvent | None]:
    """Each event; None after every two seconds of silence. Ends when the listener is cut off."""
    while True:
        try:
            async with asyncio.timeout(_SECONDS_BETWEEN_LOOKS):
                event = await listener.next()
        except TimeoutError:
            yield None
            continue
        if event is None:
            return
        yield event


async def _events(listener: Listener) -> AsyncIterator[Message | None]:
    async for event in _heard(listener):
        yield _message(event, listener.position) if event else None


async def _changes(images: ImageRepository, listener: Listener, told: ImageEvent) -> AsyncIterator[Message | None]:
    """The changes of one image after `told` until it is at rest, also those that no event tells of."""
    async for event in _heard(listener):
        if event is None:
            now, position = await _present(images, told), None
        else:  # one from before `told` may come late
            now, position = max(event, told, key=lambda each: each.at), listener.position
        if now == told:
            yield None
            continue
        told = now
        yield _message(told, position)
        if told.state in _AT_REST:
            return


async def _present(images: ImageRepository, told: ImageEvent) -> ImageEvent:
    """Where the image stands; `told` while that cannot be read."""
    try:
        image = (await images.get_many([told.id])).get(told.id)
    except Unavailable:
        return told
    if image is None:
        return replace(told, state="deleted", stage=None, error=None, at=datetime.now(UTC))
    return ImageEvent.of(image)


async def _with_comments(messages: AsyncIterator[Message | None]) -> AsyncIterator[Message]:
    """`messages`, and a comment now and then where there are none for long."""
    last = time.monotonic()
    async for message in messages:
        if message is None and time.monotonic() - last > _SECONDS_BETWEEN_COMMENTS:
            message = Message(data=None, comment="still here")
        if message is not None:
            last = time.monotonic()
            yield message


def _message(event: ImageEvent, position: EventId | None = None) -> Message:
    return Message(event=event.state, data=msgspec.json.encode(event).decode(), id=str(position) if position else None)
