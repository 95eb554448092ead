"""The kinds of sources that a bulk import reads, chosen by scheme and suffix here, and nowhere else."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

from imgsim.core.errors import ImgsimError, InvalidRequest
from imgsim.sources.archives import TarSource, ZipSource
from imgsim.sources.buckets import BucketSource
from imgsim.sources.csv_rows import CsvRows
from imgsim.sources.files import FileSource, readable
from imgsim.sources.lists import ListSource
from imgsim.sources.parquet_rows import ParquetRows
from imgsim.sources.places import item_at
from imgsim.sources.source import Item, Reach, Source, failing
from imgsim.sources.tables import TableSource

__all__ = ["CONTAINERS", "Item", "ListSource", "Reach", "Source", "SourceChain", "check_name", "source_at", "source_in"]

OpenFile = Callable[[], BinaryIO]
_Make = Callable[[str, OpenFile, Path | None, Reach], Source]

_ZIP: _Make = lambda label, file, folder, reach: ZipSource(label, file, reach)  # noqa: E731
_TAR: _Make = lambda label, file, folder, reach: TarSource(label, file, reach)  # noqa: E731
_CSV: _Make = lambda label, file, folder, reach: TableSource(label, CsvRows(file), folder, reach)  # noqa: E731
_PARQUET: _Make = lambda label, file, folder, reach: TableSource(label, ParquetRows(file), folder, reach)  # noqa: E731

CONTAINERS: Mapping[str, _Make] = {
    ".zip": _ZIP,
    ".tar": _TAR,
    ".tar.gz": _TAR,
    ".tgz": _TAR,
    ".tar.bz2": _TAR,
    ".tbz2": _TAR,
    ".tar.xz": _TAR,
    ".txz": _TAR,
    ".csv": _CSV,
    ".tsv": _CSV,
    ".parquet": _PARQUET,
    ".txt": ListSource,
}
"""Files that hold, or name, many images: by the end of their name."""


def source_in(name: str, open_file: OpenFile, folder: Path | None, reach: Reach) -> Source | None:
    """What is in the file called `name`; None where it is none that holds images."""
    suffix = next((suffix for suffix in CONTAINERS if name.lower().endswith(suffix)), None)
    return CONTAINERS[suffix](name, open_file, folder, reach) if suffix else None


def check_name(name: str) -> None:
    """``InvalidRequest`` where a file called `name` is none that holds images."""
    if not name.lower().endswith(tuple(CONTAINERS)):
        raise InvalidRequest(f"The name of the file, {name[:200]!r}, ends in none of {', '.join(CONTAINERS)}.")


def source_at(place: str, reach: Reach) -> Source:
    """What is at `place`: a file, a folder, an archive, a list, a table, a URL, or a bucket."""
    if place.startswith("s3://"):
        return BucketSource(place, reach)
    if place.startswith(("http://", "https://")):
        return _One(place, reach)
    path = Path(place)
    within = None if path.is_dir() else source_in(readable(path), lambda: path.open("rb"), path.parent, reach)
    return within or FileSource(path, reach)


class _One:
    """One image, at a URL."""

    def __init__(self, url: str, reach: Reach) -> None:
        self.label = url
        self._reach = reach

    async def items(self) -> AsyncGenerator[Item, None]:
        yield item_at(self.label, None, self._reach)

    def count(self) -> int | None:
        return 1


class SourceChain:
    """Several sources, one after the other. One that cannot be read is an item that says so."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self.label = ", ".join(source.label for source in sources)

    async def items(self) -> AsyncGenerator[Item, None]:
        for source in self._sources:
            try:
                async with aclosing(source.items()) as items:
                    async for item in items:
                        yield item
            except (ImgsimError, OSError) as error:
                yield failing(source.label, error)

    def count(self) -> int | None:
        """None where it cannot be told of one of them."""
        total = 0
        for source in self._sources:
            try:
                count = source.count()
            except (ImgsimError, OSError):
                count = 1  # the item that says so
            if count is None:
                return None
            total += count
        return total
