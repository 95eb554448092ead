"""Forms with a file of gigabytes."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from imgsim.adapters.http.bodies import AnyRequest, Form, FormLimits, FormReader, body_chunks
from imgsim.core.errors import Unavailable
from imgsim.core.threads import finished

_CHUNK_BYTES = 1 << 20
_SPARE_BYTES = 256 << 20  # of the disk, which the database and the vectors need


@asynccontextmanager
async def read_large_form(
    request: AnyRequest, max_bytes: int, folder: Path, setting: str, check: Callable[[Form], None]
) -> AsyncIterator[Form]:
    """As ``read_form``, for one file of at most `max_bytes` (as `setting` says), kept in `folder` without a name.

    `check` sees the fields before the file, and its name, when it begins, and may refuse it.

    It is written in threads: a disk that is busy must not stop the event loop. ``Unavailable`` where it would be full.
    """
    with ExitStack() as opened:
        reader = FormReader(request, opened, FormLimits(max_bytes, 1, setting, folder, check))

        def take(piece: bytearray) -> None:
            if shutil.disk_usage(folder).free < _SPARE_BYTES + len(piece):
                raise Unavailable(f"The disk of {folder} has less than {_SPARE_BYTES >> 20} MiB left.", 60.0)
            reader.take(bytes(piece))

        waiting = bytearray()
        async for chunk in body_chunks(request):
            waiting += chunk
            if len(waiting) >= _CHUNK_BYTES:
                await finished(asyncio.ensure_future(asyncio.to_thread(take, waiting)))
                waiting = bytearray()
        await finished(asyncio.ensure_future(asyncio.to_thread(take, waiting)))
        yield reader.end()
