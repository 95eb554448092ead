"""The calls of the client, each written once: ``AsyncClient`` is made of them, ``Client`` runs them to their end."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Self

import httpx

from imgsim.client.caller import path_of
from imgsim.client.connection import Call, options
from imgsim.client.exchange import Asynchronous
from imgsim.client.image_calls import ImageCalls
from imgsim.client.import_calls import ImportCalls
from imgsim.client.models import Health, Id, Readiness
from imgsim.client.search_calls import SearchCalls
from imgsim.client.server_events import messages
from imgsim.core.models import ImageEvent

_SECONDS_OF_SILENCE = 45.0  # a stream of events says something every 15
_SECONDS_TO_LISTEN_ANEW = 0.5
_ENDS = ("done", "error", "deleted")


class Calls(ImageCalls, SearchCalls, ImportCalls):
    async def events(self, image_id: Id | None = None) -> AsyncGenerator[ImageEvent, None]:
        """State changes: of one image, beginning with its present state, until it is at rest; or of all, without end.

        Listens anew where the connection breaks, and is told what it missed.
        """
        path = "/events" if image_id is None else f"{path_of(image_id)}/events"
        last_id, told = "", None
        while True:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            call = Call("GET", path, headers=headers, timeout=_SECONDS_OF_SILENCE)
            async with aclosing(self._connection.lines(call)) as lines, aclosing(messages(lines)) as heard:
                async for message in heard:
                    last_id = message.id or last_id
                    if message.event != told:
                        yield message.event
                    told = message.event
            if image_id is not None and told is not None and told.state in _ENDS:
                return
            await self._exchange.sleep(_SECONDS_TO_LISTEN_ANEW)

    async def health(self) -> Health:
        """That the process lives; asked once, without retries."""
        return (await self._connection.call(Call("GET", "/health", patient=False))).decode(Health)

    async def ready(self) -> Readiness:
        """Whether every part answers, and what is wrong with those that do not; asked once, without retries."""
        return (await self._connection.call(Call("GET", "/ready", patient=False), 503)).decode(Readiness)

    async def metrics(self) -> str:
        """Prometheus' text format."""
        return (await self._connection.call(Call("GET", "/metrics"))).response.text

    async def close(self) -> None:
        """Close the connections."""
        await self._exchange.close()


class AsyncClient(Calls):
    """Talks to the server at `url` in an event loop; an asynchronous context manager.

    `api_key` is by default the first of ``IMGSIM_AUTH__KEYS``; `timeout` in seconds is for each wait for the server.
    What a connection that breaks, or the statuses 429, 502, 503 and 504 left undone is tried again up to `retries`
    times, after the server's ``Retry-After`` or 0.5 s, doubled each time. That repeats nothing: the same bytes are
    stored once, and what an attempt did whose answer was lost counts as done by this call.
    """

    def __init__(self, url: str, api_key: str | None = None, *, timeout: float = 60.0, retries: int = 4) -> None:
        super().__init__(Asynchronous(httpx.AsyncClient(**options(url, api_key, timeout))), retries)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
