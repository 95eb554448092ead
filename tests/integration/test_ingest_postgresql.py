"""What an upload leaves behind when PostgreSQL does not say how its row fared."""

import asyncio
import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from imgsim.container import Container
from imgsim.core.errors import Unavailable
from imgsim.core.models import original_key
from imgsim.core.services.ingest import new_image
from imgsim.running import opened
from imgsim.settings import load_settings
from tests.contracts.test_image_repository import new_image as any_image
from tests.servers import PostgreSQL


@contextmanager
def frozen(server: PostgreSQL, url: str) -> Iterator[None]:
    """The server's processes for the connections there are answer nothing; new connections are served."""
    name = url.rpartition("/")[2]
    rows = server.execute(f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}'")
    for row in rows:
        os.kill(row["pid"], signal.SIGSTOP)
    try:
        yield
    finally:
        for row in rows:
            os.kill(row["pid"], signal.SIGCONT)


async def test_the_bytes_stay_where_the_row_comes_after_all(tmp_path: Path, postgresql: PostgreSQL) -> None:
    url = postgresql.new_database()
    values = {
        "data_dir": tmp_path,
        "objects": {"url": "memory:"},
        "database": {"url": url, "pool_min": 1},
        "vectors": {"url": "qdrant-memory:"},
        "embedder": {"url": "colour:"},
    }
    file = io.BytesIO()
    Pillow.fromarray(np.random.default_rng().integers(0, 256, (12, 16, 3), np.uint8)).save(file, "PNG")
    container = Container(settings=load_settings(overrides=values))
    async with opened(container):
        ingest, images, objects = container.ingest(), container.images(), container.objects()
        await images.add(any_image())  # its connection knows the statement now, and will send it at once
        found = await container.reader().inspect(file)
        size = len(file.getbuffer())
        image = new_image(any_image().id, "ab" * 32, size, found, collection="c", filename="", tags=[], metadata={})
        await objects.put(original_key(image.id), file, image.content_type)
        with frozen(postgresql, url), pytest.raises(Unavailable):
            await ingest.accept(image, found.picture)
        async with asyncio.timeout(10):
            while not await images.get_many([image.id]):  # noqa: ASYNC110 (the server says nothing when it is done)
                await asyncio.sleep(0.01)
        assert await objects.exists(original_key(image.id))
