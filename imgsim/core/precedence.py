"""Somebody's search goes before work that nobody looks at."""

import asyncio
import contextlib
from collections.abc import Iterator

_LONGEST_WAIT = 0.05
"""Seconds that one step of other work is put off: searches without end must slow it down, not stop it."""


class Precedence:
    """Searches under way in this process, which everything else lets pass: what is not begun needs neither a core nor
    Python's lock, for which each of a search's steps would wait otherwise."""

    def __init__(self) -> None:
        self._under_way = 0
        self._over = asyncio.Event()
        self._over.set()

    @contextlib.contextmanager
    def search(self) -> Iterator[None]:
        """A search is under way until the context ends."""
        self._under_way += 1
        self._over.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._over.set()

    async def let_pass(self) -> None:
        """Return when no search is under way, or after 50 ms."""
        if self._under_way:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_WAIT):
                    await self._over.wait()
