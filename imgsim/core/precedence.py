"""Somebody's search goes before work that nobody looks at."""

import asyncio
from contextlib import AbstractContextManager, suppress

from imgsim.core.gate import Gate

_LONGEST_WAIT = 0.05
"""Seconds that one step of other work is put off: searches without end must slow it down, not stop it."""


class Precedence:
    """Searches under way in this process, which everything else lets pass: what is not begun needs neither a core nor
    Python's lock, for which each of a search's steps would wait otherwise."""

    def __init__(self) -> None:
        self._gate = Gate()

    def search(self) -> AbstractContextManager[None]:
        """A search is under way until the context ends."""
        return self._gate.shut()

    async def let_pass(self) -> None:
        """Return when no search is under way, or after 50 ms."""
        if not self._gate.is_open:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_WAIT):
                    await self._gate.opened()
