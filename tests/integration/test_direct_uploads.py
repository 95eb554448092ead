"""Uploads straight to the object store, on a real one: what repeats, what is given up, what stays behind."""

import hashlib
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
from dependency_injector import providers
from PIL import Image as Pillow

from imgsim.adapters.database.memory import MemoryImageRepository
from imgsim.container import Container
from imgsim.core.errors import ImageNotFound, NotUploaded, Unavailable
from imgsim.core.models import Image, original_key
from imgsim.core.services.direct import Announced
from imgsim.running import opened
from imgsim.settings import load_settings
from tests.servers import SeaweedFS


class Images(MemoryImageRepository):
    """Can lose the answer to an `add`, and the row with it."""

    silent = False

    async def add(self, image: Image) -> Image:
        if self.silent:
            raise Unavailable("The database gives no answer.")
        return await super().add(image)


class Bench:
    def __init__(self, folder: Path, bucket: str) -> None:
        self.images = Images()
        values = {
            "data_dir": folder,
            "objects": {"url": bucket},
            "database": {"url": "memory:"},
            "vectors": {"url": "qdrant-memory:"},
            "embedder": {"url": "colour:"},
        }
        self.container = Container(settings=load_settings(overrides=values), images=providers.Object(self.images))
        self.direct, self.ingest = self.container.direct(), self.container.ingest()
        self.lifecycle = self.container.lifecycle()

    async def announce(self, data: bytes) -> Announced:
        announced = await self.direct.announce(hashlib.sha256(data).hexdigest(), "image/png", len(data))
        assert isinstance(announced, Announced)
        return announced

    async def sweep_after_its_time(self, announced: Announced) -> None:
        kept = self.images._reservations
        kept[announced.id] = replace(kept[announced.id], expires_at=datetime.now(UTC))
        await self.lifecycle.reconcile()
        assert announced.id not in kept

    async def objects(self) -> set[str]:
        return {info.key async for info in self.container.objects().list("")}


@pytest.fixture
async def bench(tmp_path: Path, seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    for name, value in seaweedfs.environment.items():
        monkeypatch.setenv(name, value)
    bench = Bench(tmp_path, seaweedfs.new_bucket())
    async with opened(bench.container):
        yield bench


@pytest.fixture
def data() -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(np.random.default_rng().integers(0, 256, (12, 16, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def store(announced: Announced, data: bytes) -> None:
    httpx.put(announced.put.url, headers=dict(announced.put.headers), content=data).raise_for_status()


async def test_confirming_again_gives_the_same_answer(bench: Bench, data: bytes) -> None:
    announced = await bench.announce(data)
    with pytest.raises(NotUploaded):
        await bench.direct.confirm(announced.id)
    store(announced, data)
    first = await bench.direct.confirm(announced.id)
    again = await bench.direct.confirm(announced.id)
    assert (again.id, again.duplicate) == (first.id, first.duplicate) == (announced.id, False)
    await bench.sweep_after_its_time(announced)
    assert (await bench.direct.confirm(announced.id)).id == announced.id
    assert await bench.objects() == {original_key(announced.id)}


async def test_confirming_again_gives_the_image_that_came_in_by_another_way(bench: Bench, data: bytes) -> None:
    announced = await bench.announce(data)
    store(announced, data)
    other = await bench.ingest.upload(io.BytesIO(data))
    for _ in range(3):
        image = await bench.direct.confirm(announced.id)
        assert (image.id, image.duplicate) == (other.id, True)
    assert await bench.objects() == {original_key(other.id)}


async def test_what_is_stored_after_it_was_confirmed_does_not_stay(bench: Bench, data: bytes) -> None:
    announced = await bench.announce(data)
    other = await bench.ingest.upload(io.BytesIO(data))
    await bench.direct.confirm(announced.id)
    store(announced, data)
    assert len(await bench.objects()) == 2
    await bench.sweep_after_its_time(announced)
    assert await bench.objects() == {original_key(other.id)}


async def test_a_deleted_image_does_not_come_back_by_its_old_request(bench: Bench, data: bytes) -> None:
    announced = await bench.announce(data)
    store(announced, data)
    await bench.direct.confirm(announced.id)
    await bench.lifecycle.delete(announced.id)
    await bench.lifecycle.reconcile()
    store(announced, data)
    with pytest.raises(ImageNotFound):
        await bench.direct.confirm(announced.id)
    await bench.sweep_after_its_time(announced)
    assert await bench.objects() == set()


async def test_what_a_client_has_stored_outlives_a_database_without_answer(bench: Bench, data: bytes) -> None:
    announced = await bench.announce(data)
    store(announced, data)
    bench.images.silent = True
    with pytest.raises(Unavailable):
        await bench.direct.confirm(announced.id)
    bench.images.silent = False
    image = await bench.direct.confirm(announced.id)
    assert (image.id, image.duplicate) == (announced.id, False)
    assert await bench.objects() == {original_key(announced.id)}
