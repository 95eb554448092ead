"""Indexing many files: bounded memory, progress, and a report of what failed."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from imgsim.core.errors import ImgsimError, Unavailable
from imgsim.targets import Target, looks_like_image, readable

T = TypeVar("T")

_AT_ONCE = 32
_PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds to wait for a part that is away: a long run outlives the restart of a server."""


@dataclass(slots=True)
class BulkReport:
    indexed: int = 0
    already_there: int = 0
    not_images: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason."""
    stopped: bool = False
    """Files are left because it was to stop."""
    unavailable: str | None = None
    """Files are left because of this."""

    @property
    def seen(self) -> int:
        return self.indexed + self.already_there + self.not_images + len(self.failed)


def find_files(paths: Sequence[Path], on_error: Callable[[OSError], None] | None = None) -> Iterator[tuple[Path, bool]]:
    """Every file at or below `paths`, hidden ones left out; and whether it was named itself.

    `on_error` is told of folders that cannot be read.
    """
    for path in paths:
        if not path.is_dir():
            yield path, True
            continue
        for folder, folders, names in os.walk(path, onerror=on_error):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith("."):
                    yield Path(folder, name), False


async def index_files(
    target: Target,
    paths: Sequence[Path],
    collection: str,
    tags: Sequence[str],
    on_progress: Callable[[BulkReport], None],
    stop: asyncio.Event,
) -> BulkReport:
    """Upload every image at or below `paths` and wait until it is done.

    `stop` set: what has begun is finished, and the rest is left for the next run, which finds the
    same bytes stored already and goes on where this one stopped.
    """
    report = BulkReport()
    files = find_files(paths, lambda error: report.failed.append((readable(error.filename), _reason(error))))

    async def work() -> None:
        while not stop.is_set() and report.unavailable is None:
            following = next(files, None)
            if following is None:
                return
            path, named = following
            await _index_one(target, path, named, collection, tags, report)
            on_progress(report)

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    report.stopped = stop.is_set() and next(files, None) is not None
    return report


async def _index_one(
    target: Target, path: Path, named: bool, collection: str, tags: Sequence[str], report: BulkReport
) -> None:
    try:
        # A folder holds other things too; only a file that was named itself must be an image.
        if not named and not await asyncio.to_thread(looks_like_image, path):
            report.not_images += 1
            return
        image = await _patiently(lambda: target.upload(path, path.name, collection, tags, source_of(path)))
        already_there, image_id = image["duplicate"], image["id"]
        image = await _patiently(lambda: target.wait(image_id))
    except OSError as error:
        report.failed.append((readable(path), _reason(error)))
    except Unavailable as error:
        report.unavailable = error.message
    except ImgsimError as error:
        report.failed.append((readable(path), error.message))
    else:
        if image["state"] == "error":
            report.failed.append((readable(path), f"{image['error']['stage']}: {image['error']['message']}"))
        elif already_there:
            report.already_there += 1
        else:
            report.indexed += 1


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    for pause in _PAUSES:
        try:
            return await call()
        except Unavailable:
            await asyncio.sleep(pause)
    return await call()


def source_of(path: Path) -> dict[str, str]:
    """Metadata by which a search can say where the file lies."""
    return {"path": readable(path.absolute())}


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


class _Rate(ProgressColumn):
    """Files per second of late."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "")


def progress_bar(what: str = "indexing") -> Progress:
    """`what` is done: how many of how many, how fast, how long still, and a description; on stderr."""
    return Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
    )
