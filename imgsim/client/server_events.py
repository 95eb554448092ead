"""Server-sent events, of which imgsim sends ``event``, ``data`` in one line, ``id`` and comments."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

import msgspec

from imgsim.core.models import ImageEvent


class Message(NamedTuple):
    id: str
    """Empty where the event has none."""
    event: ImageEvent


async def messages(lines: AsyncIterator[str]) -> AsyncGenerator[Message, None]:
    """The events in `lines`; one that is cut off is left out."""
    fields: dict[str, str] = {}
    async for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
            continue
        if "data" in fields and fields.get("event"):
            yield Message(fields.get("id", ""), msgspec.json.decode(fields["data"], type=ImageEvent))
        fields = {}
