"""Where the bytes of an image come from: a path, bytes, or an open file."""

import io
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, cast

Source = str | os.PathLike[str] | bytes | BinaryIO
"""A path, the bytes themselves, or a binary file: read from its start, or from where it is if it cannot seek."""

_IN_MEMORY = 1 << 20


def opened(source: Source, stack: ExitStack) -> BinaryIO:
    """`source` as a file that can be read again for a second attempt; what is opened, `stack` closes. ``OSError``."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        return stack.enter_context(open(source, "rb"))
    if source.seekable():
        return source
    spooled = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 (closed with `stack`)
    kept = cast("BinaryIO", stack.enter_context(spooled))
    shutil.copyfileobj(source, kept)
    return kept


def name_of(source: Source) -> str:
    """The name of the file without its folders; empty where it has none."""
    named = source if isinstance(source, str | os.PathLike) else getattr(source, "name", "")
    return readable(os.path.basename(named)) if isinstance(named, str | os.PathLike) else ""


def readable(path: Path | str) -> str:
    """A path as text that can be stored and printed: not every file name is UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")
