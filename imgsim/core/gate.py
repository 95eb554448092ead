"""What the work waits at."""

import asyncio
import contextlib
from collections.abc import Iterator


class Gate:
    """Open unless somebody holds it shut."""

    def __init__(self) -> None:
        self._holders = 0
        self._event = asyncio.Event()
        self._event.set()

    @property
    def is_open(self) -> bool:
        return self._event.is_set()

    async def opened(self) -> None:
        await self._event.wait()

    @contextlib.contextmanager
    def shut(self) -> Iterator[None]:
        self._holders += 1
        self._event.clear()
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self._event.set()

    def open_for_good(self) -> None:
        """Let everybody through: the process stops, and they will see that it does."""
        self._event.set()
