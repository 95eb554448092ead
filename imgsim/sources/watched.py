"""Folders that are followed: what is in them, and then what comes."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

from watchfiles import Change, awatch

from imgsim.core.errors import ImgsimError
from imgsim.sources.files import file_item, find_files, readable
from imgsim.sources.resting import Resting, is_hidden
from imgsim.sources.source import Item, Reach, drawn, in_thread

_TICK_MS = 250
_POLL_MS = 1000


class WatchedFolders:
    """All files below `folders`, as each of them rests for `settle_seconds`, until ``stop``. Hidden ones are left out.

    `poll` looks once a second instead of being told by the system, which network file systems do not.
    `on_caught_up` is called when what was there at first has been given. What is removed changes nothing.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        reach: Reach,
        settle_seconds: float,
        poll: bool = False,
        on_caught_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._folders = [folder.absolute() for folder in folders]
        self._reach = reach
        self._resting = Resting(settle_seconds)
        self._poll = poll
        self._on_caught_up = on_caught_up
        self._changed: set[Path] = set()
        self._stopping = asyncio.Event()
        self._ticked = asyncio.Event()
        self.label = ", ".join(readable(folder) for folder in folders)

    def stop(self) -> None:
        self._stopping.set()

    def count(self) -> int | None:
        return None

    async def items(self) -> AsyncGenerator[Item, None]:
        listening = asyncio.create_task(self._listen())
        try:
            await self._next_tick(listening)  # from here on nothing can come unnoticed
            async with aclosing(drawn(self._present)) as present:
                async for item in present:
                    yield item
                    async for rested in self._rested():
                        yield rested
                    if self._stopping.is_set():
                        return
            self._on_caught_up()
            while not self._stopping.is_set():
                async for rested in self._rested():
                    yield rested
                await self._next_tick(listening)
        finally:
            self._stopping.set()
            with suppress(asyncio.CancelledError):
                await listening

    async def _next_tick(self, listening: asyncio.Task[None]) -> None:
        self._ticked.clear()
        waiting = asyncio.create_task(self._ticked.wait())
        await asyncio.wait((waiting, listening), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if listening.done():
            listening.result()

    async def _rested(self) -> AsyncGenerator[Item, None]:
        """Looks at what waits once a tick at most."""
        if self._ticked.is_set() and (self._changed or len(self._resting)):
            self._ticked.clear()
            changed, self._changed = self._changed, set()
            for path in await in_thread(lambda: list(self._resting.rested(changed))):
                yield self._item(path)

    def _present(self) -> Iterator[Item]:
        for folder in self._folders:
            for path in find_files(folder):
                if self._resting.is_old(path):
                    yield self._item(path)

    def _item(self, path: Path) -> Item:
        return file_item(path, self._reach, must_be=False)

    async def _listen(self) -> None:
        changes = awatch(
            *self._folders,
            watch_filter=None,
            debounce=_TICK_MS,
            rust_timeout=_TICK_MS,
            yield_on_timeout=True,
            stop_event=self._stopping,
            force_polling=self._poll or None,
            poll_delay_ms=_POLL_MS,
            ignore_permission_denied=True,
        )
        try:
            async for several in changes:
                for change, name in several:
                    path = Path(name)
                    if change != Change.deleted and not is_hidden(path, self._folders):
                        self._changed.add(path)
                self._ticked.set()
        except OSError as error:  # such as too many folders
            raise ImgsimError(f"{self.label} cannot be watched: {error}. --poll does without the system.") from error
