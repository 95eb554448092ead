"""Server-sent events: one per state change."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import msgspec
from litestar import Controller, get
from litestar.params import FromPath
from litestar.response import ServerSentEvent, ServerSentEventMessage

from imgsim.adapters.http import openapi
from imgsim.adapters.http.services import Injected
from imgsim.core.events import Listener
from imgsim.core.models import ImageEvent

_AT_REST = {"done", "error", "deleted"}
_STREAM = openapi.answer(str, "Server-sent events", "text/event-stream")
_SECONDS_BETWEEN_COMMENTS = 15.0  # so that proxies do not close a quiet stream


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

        async def stream() -> AsyncIterator[ServerSentEventMessage]:
            with services.events().listen(image_id) as listener:
                # Read again now that nothing can slip in between.
                now = (await services.images().get_many([image_id])).get(image_id)
                if now is None:
                    yield _message(replace(ImageEvent.of(image), state="deleted", stage=None, error=None))
                    return
                yield _message(ImageEvent.of(now))
                if now.state in _AT_REST:
                    return
                async for event in _with_comments(listener):
                    yield event
                    if event.event in _AT_REST:
                        return

        return ServerSentEvent(stream(), headers={"Cache-Control": "no-store"})

    @get("/events", summary="State changes of all images", responses={200: _STREAM, **openapi.problems()})
    async def of_all(self, services: Injected) -> ServerSentEvent:
        """From now on, until you close the stream. The name of an event is the new state, its data JSON."""

        async def stream() -> AsyncIterator[ServerSentEventMessage]:
            with services.events().listen() as listener:
                yield ServerSentEventMessage(data=None, comment="listening")
                async for message in _with_comments(listener):
                    yield message

        return ServerSentEvent(stream(), headers={"Cache-Control": "no-store"})


async def _with_comments(listener: Listener) -> AsyncIterator[ServerSentEventMessage]:
    while True:
        try:
            async with asyncio.timeout(_SECONDS_BETWEEN_COMMENTS):
                event = await listener.next()
        except TimeoutError:
            yield ServerSentEventMessage(data=None, comment="still here")
            continue
        if event is None:
            return
        yield _message(event)


def _message(event: ImageEvent) -> ServerSentEventMessage:
    return ServerSentEventMessage(event=event.state, data=msgspec.json.encode(event).decode())
