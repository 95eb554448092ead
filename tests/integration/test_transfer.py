"""What a transfer from one data directory to another makes of images that do not simply go over."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from imgsim.core.errors import SettingsError
from imgsim.core.models import (
    EmbeddingInfo,
    Image,
    ImageState,
    Point,
    derived_prefix,
    new_image_id,
    original_key,
)
from imgsim.running import opened_storage
from imgsim.settings import Settings, load_settings
from imgsim.transfer import Storage, TransferReport, check_apart, transfer

MODEL, VECTOR = "a-model@1", np.eye(4, dtype=np.float32)[0]


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Storage]:
    async with opened_storage(Settings(data_dir=tmp_path / "source")) as storage:
        yield storage


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Storage]:
    async with opened_storage(Settings(data_dir=tmp_path / "target")) as storage:
        yield storage


def image_of(content: bytes, state: ImageState = ImageState.DONE) -> Image:
    now = datetime.now(UTC)
    return Image(
        new_image_id(),
        collection="default",
        state=state,
        stage=None,
        duplicate=False,
        sha256=hashlib.sha256(content).hexdigest(),
        filename="a.png",
        content_type="image/png",
        bytes=len(content),
        width=1,
        height=1,
        tags=(),
        metadata={},
        attempts=1,
        error=None,
        embedding=EmbeddingInfo(MODEL, 4) if state is ImageState.DONE else None,
        features={},
        created_at=now,
        updated_at=now,
    )


async def keep(storage: Storage, image: Image, content: bytes, vector: bool = True) -> Image:
    """`image` as a stage leaves it, with an object that is derived from it."""
    await storage.objects.put(original_key(image.id), io.BytesIO(content), image.content_type)
    await storage.objects.put(f"{derived_prefix(image.id)}thumbnail", io.BytesIO(b"small"), "image/png")
    await storage.vectors.open_collection(MODEL, 4)
    if vector:
        await storage.vectors.upsert(MODEL, [Point(image.id, VECTOR, image.collection)])
    return await storage.images.add(image)


async def run(source: Storage, target: Storage) -> TransferReport:
    return await transfer(source, target, lambda report: None, asyncio.Event())


async def objects(storage: Storage, image_id: UUID) -> set[str]:
    return {info.key async for info in storage.objects.list("") if str(image_id) in info.key}


async def vectors(storage: Storage) -> set[UUID]:
    return {image_id async for image_id in storage.vectors.ids(MODEL)}


async def test_nothing_stays_of_an_image_that_the_target_has_under_another_id(source: Storage, target: Storage) -> None:
    theirs = await keep(target, image_of(b"same"), b"same")
    ours = await keep(source, image_of(b"same"), b"same")
    report = await run(source, target)
    assert report.failed == [(str(ours.id), f"The target has these bytes already, as {theirs.id}.")]
    assert not report.complete
    assert await objects(target, ours.id) == set()
    assert await vectors(target) == {theirs.id}
    assert len(await objects(target, theirs.id)) == 2
    assert await vectors(source) == {ours.id}
    assert len(await objects(source, ours.id)) == 2


async def test_images_that_are_in_other_states_there_are_no_loss(source: Storage, target: Storage) -> None:
    """Without its vector an image arrives as pending; and workers of the target go on."""
    lost = await keep(source, image_of(b"vector lost"), b"vector lost", vector=False)
    waiting = await keep(source, image_of(b"waiting", ImageState.PENDING), b"waiting", vector=False)
    first = await run(source, target)
    assert (first.copied, first.complete) == (2, True)
    assert (await target.images.get(lost.id)).state is ImageState.PENDING

    (claimed,) = await target.images.claim([waiting.id], "a-worker", 30, "embed")
    await target.vectors.open_collection(MODEL, 4)
    await target.vectors.upsert(MODEL, [Point(waiting.id, VECTOR, "default")])
    await target.images.finish(waiting.id, claimed.attempts, {}, EmbeddingInfo(MODEL, 4))
    again = await run(source, target)
    assert (again.copied, again.already_there, again.complete) == (0, 2, True)


async def test_other_images_of_the_target_do_not_stand_for_those_that_failed(source: Storage, target: Storage) -> None:
    await keep(target, image_of(b"other"), b"other")
    broken = await keep(source, image_of(b"right"), b"wrong")
    report = await run(source, target)
    assert [image_id for image_id, _ in report.failed] == [str(broken.id)]
    assert not report.complete


async def test_a_vector_that_went_missing_there_is_copied_again(source: Storage, target: Storage) -> None:
    image = await keep(source, image_of(b"one"), b"one")
    assert (await run(source, target)).complete
    await target.vectors.delete([image.id])
    again = await run(source, target)
    assert (again.copied, again.complete) == (1, True)
    assert await vectors(target) == {image.id}
    assert (await run(source, target)).already_there == 1


async def test_groups_of_copies_and_dismissals_go_over(source: Storage, target: Storage) -> None:
    one, copy, other = [await keep(source, image_of(content), content) for content in (b"one", b"copy", b"other")]
    await run(source, target)
    await source.images.note_copies(copy.id, [one.id])
    await source.images.note_copies(other.id, [one.id])
    await source.images.dismiss_group(one.id)
    await source.images.note_copies(copy.id, [one.id])
    await run(source, target)
    await target.images.note_copies(copy.id, [other.id])
    assert await target.images.copy_groups(10) == await source.images.copy_groups(10) == []
    new = await keep(source, image_of(b"new"), b"new")
    await source.images.note_copies(new.id, [one.id])
    await run(source, target)
    (group,) = await target.images.copy_groups(10)
    assert [image.id for image in group.images] == [one.id, new.id]
    await source.images.dismiss_group(one.id)  # after it went over: a long run was stopped, and goes on
    await run(source, target)
    assert await target.images.copy_groups(10) == []


async def test_one_that_was_stopped_is_not_complete(source: Storage, target: Storage) -> None:
    await keep(source, image_of(b"one"), b"one")
    stop = asyncio.Event()
    stop.set()
    report = await transfer(source, target, lambda report: None, stop)
    assert (report.seen, report.stopped, report.complete) == (0, True, False)


@pytest.mark.parametrize(
    ("part", "url"),
    [("database", "postgresql://me:pw@host/db"), ("vectors", "http://qdrant:6333"), ("objects", "s3://bucket")],
)
def test_a_place_that_both_have_is_refused(tmp_path: Path, part: str, url: str) -> None:
    source = load_settings(overrides={"data_dir": tmp_path / "source", part: {"url": url}}, environment=False)
    target = load_settings(overrides={"data_dir": tmp_path / "target", part: {"url": f"{url}/"}}, environment=False)
    with pytest.raises(SettingsError, match=rf"the same {part}\.url") as refused:
        check_apart(source, target)
    assert "pw" not in refused.value.message
    check_apart(source, target.model_copy(update={part: type(getattr(target, part))(url="memory:")}))


def test_a_data_directory_is_not_copied_onto_itself(tmp_path: Path) -> None:
    settings = load_settings(overrides={"data_dir": tmp_path}, environment=False)
    with pytest.raises(SettingsError, match="the same objects"):
        check_apart(settings, settings.model_copy(update={"port": 1}))
