"""Indexing many files: bounded memory, progress, and a report of what failed."""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imgsim.core.errors import ImgsimError
from imgsim.targets import Target, looks_like_image

_AT_ONCE = 32


@dataclass(slots=True)
class BulkReport:
    indexed: int = 0
    already_there: int = 0
    not_images: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason."""
    stopped: bool = False

    @property
    def seen(self) -> int:
        return self.indexed + self.already_there + self.not_images + len(self.failed)


def find_files(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Every file at or below `paths`, hidden ones left out; and whether it was named itself."""
    for path in paths:
        if not path.is_dir():
            yield path, True
            continue
        for folder, folders, names in os.walk(path):
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
    files = find_files(paths)

    async def work() -> None:
        while not stop.is_set():
            following = next(files, None)
            if following is None:
                return
            path, named = following
            await _index_one(target, path, named, collection, tags, report)
            on_progress(report)

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    report.stopped = stop.is_set()
    return report


async def _index_one(
    target: Target, path: Path, named: bool, collection: str, tags: Sequence[str], report: BulkReport
) -> None:
    try:
        # A folder holds other things too; only a file that was named itself must be an image.
        if not named and not await asyncio.to_thread(looks_like_image, path):
            report.not_images += 1
            return
        image = await target.upload(path, collection, tags)
        already_there = image["duplicate"]
        image = await target.wait(image["id"])
    except OSError as error:
        report.failed.append((str(path), error.strerror or str(error)))
    except ImgsimError as error:
        report.failed.append((str(path), error.message))
    else:
        if image["state"] == "error":
            report.failed.append((str(path), f"{image['error']['stage']}: {image['error']['message']}"))
        elif already_there:
            report.already_there += 1
        else:
            report.indexed += 1
