"""What imgsim does for its callers, on the in-memory adapters put together by the container."""

import asyncio
import io
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from dependency_injector import providers
from PIL import Image as Pillow
from qdrant_client import AsyncQdrantClient

from imgsim.adapters.jobs.inprocess import Handle, InProcessJobQueue
from imgsim.adapters.vectors.qdrant import QdrantVectorIndex
from imgsim.container import Container
from imgsim.core.errors import (
    BrokenImage,
    ImageNotFound,
    ImgsimError,
    InvalidRequest,
    NotSearchable,
    TooLarge,
    TooManyPixels,
    Unavailable,
    UnsupportedImage,
    WrongState,
)
from imgsim.core.models import Example, Image, ImageFilter, ImageState, Point, SearchFilter, Vector, original_key
from imgsim.core.services.search import Page
from imgsim.pipeline.stage import StageContext
from imgsim.plugins.embed import EmbedStage
from imgsim.plugins.index import IndexStage
from imgsim.running import opened, working
from imgsim.settings import load_settings

EVERYWHERE = SearchFilter()


class Jobs(InProcessJobQueue):
    """Can be away, and break."""

    away = False
    breaks = 0

    async def consume(self, handle: Handle, concurrency: int) -> None:
        if self.breaks:
            self.breaks -= 1
            raise RuntimeError("A part of it broke.")
        await super().consume(handle, concurrency)

    async def enqueue(self, image_ids: Sequence[UUID]) -> None:
        if self.away:
            raise Unavailable("The queue is away.")
        await super().enqueue(image_ids)


class Vectors(QdrantVectorIndex):
    """Can be away."""

    away = False

    async def delete(self, image_ids: Sequence[UUID]) -> None:
        if self.away:
            raise Unavailable("The index is away.")
        await super().delete(image_ids)


class Gate:
    """A stage that waits until it is opened."""

    name = "gate"

    def __init__(self) -> None:
        self.entered, self.opened = asyncio.Event(), asyncio.Event()

    async def run(self, ctx: StageContext) -> None:
        self.entered.set()
        await self.opened.wait()


class Bench:
    """A container in memory. Nothing is processed but in ``working`` or by ``process``."""

    def __init__(self, folder: Path) -> None:
        self.jobs = Jobs()
        self.vectors = Vectors(AsyncQdrantClient(":memory:"))
        self.gate = Gate()
        self.gate.opened.set()
        values = {
            "data_dir": folder,
            "objects": {"url": "memory:"},
            "database": {"url": "memory:"},
            "embedder": {"url": "colour:"},
            "upload": {"max_bytes": 20_000, "max_pixels": 10_000},
            "jobs": {"reconcile_seconds": 0.05, "max_attempts": 2, "backoff_seconds": 0.0},
        }
        self.container = Container(
            settings=load_settings(overrides=values),
            jobs=providers.Object(self.jobs),
            vectors=providers.Object(self.vectors),
            stages=providers.Object([EmbedStage(), IndexStage(), self.gate]),
        )
        self.ingest, self.search = self.container.ingest(), self.container.search()
        self.lifecycle, self.images = self.container.lifecycle(), self.container.images()
        self.objects, self.model = self.container.objects(), self.container.embedder().model_id

    async def upload(self, data: bytes | None = None, **values: Any) -> Image:
        return await self.ingest.upload(io.BytesIO(picture() if data is None else data), **values)

    async def process(self, *image_ids: UUID) -> None:
        await self.container.runner().process(image_ids)

    async def done(self, data: bytes | None = None, **values: Any) -> UUID:
        """The id of an image that can be searched."""
        image = await self.upload(data, **values)
        await self.process(image.id)
        assert (await self.images.get(image.id)).searchable
        return image.id

    async def at_rest(self, image_id: UUID) -> Image:
        with self.container.events().listen(image_id) as listener:
            while (image := await self.images.get(image_id)).state not in (ImageState.DONE, ImageState.ERROR):
                await listener.next()
        return image

    @asynccontextmanager
    async def held(self, image_id: UUID) -> AsyncIterator[asyncio.Task[None]]:
        """The job runs, and waits behind the index until the context ends; then it goes on to its end."""
        self.gate.opened.clear()
        job = asyncio.create_task(self.process(image_id))
        await self.gate.entered.wait()
        try:
            yield job
        finally:
            self.gate.opened.set()
            await job

    async def indexed(self) -> set[UUID]:
        return {image_id async for image_id in self.vectors.ids(self.model)}

    async def objects_there(self) -> list[str]:
        return [info.key async for info in self.objects.list("")]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    async with opened(bench.container):
        yield bench


def picture(seed: int | None = None, size: tuple[int, int] = (12, 16), form: str = "PNG", **options: Any) -> bytes:
    """An image file of random pixels, height and width in `size`."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


async def fails(call: Any) -> str:
    with pytest.raises(ImgsimError) as raised:
        await call
    return f"{raised.value.code}: {raised.value.message}"


# upload


async def test_an_upload_is_stored_with_what_is_known_about_it(bench: Bench) -> None:
    data = picture(form="JPEG")
    image = await bench.upload(data, filename="cat.jpg", collection="pets", tags=["a", "b", "a"], metadata={"x": [1]})

    assert (image.filename, image.collection, image.tags, image.metadata) == ("cat.jpg", "pets", ["a", "b"], {"x": [1]})
    assert (image.content_type, image.bytes, image.width, image.height) == ("image/jpeg", len(data), 16, 12)
    assert await bench.images.get(image.id)
    assert b"".join([chunk async for chunk in bench.objects.get(original_key(image.id))]) == data


async def test_the_content_type_is_what_the_bytes_say_and_the_filename_only_a_label(bench: Bench) -> None:
    image = await bench.upload(picture(form="WEBP"), filename="C:\\folder/..\\\x00evil\n.png" + "x" * 300)

    assert image.content_type == "image/webp"
    assert image.filename.startswith("evil.png")
    assert len(image.filename) == 255


async def test_the_size_is_that_of_the_picture_upright(bench: Bench) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6

    image = await bench.upload(picture(size=(10, 20), form="JPEG", exif=exif))

    assert (image.width, image.height) == (10, 20)


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "../a", "ä", "a\n", "x" * 101])
async def test_a_collection_needs_a_plain_name(bench: Bench, name: str) -> None:
    assert (await fails(bench.upload(collection=name))).startswith(
        f"invalid-request: {name[:120]!r} cannot name a collection: 1 to 100 letters"
    )


@pytest.mark.parametrize("tags", [[""], ["x" * 256], ["a\0"], ["\ud800"], [7], [str(n) for n in range(101)]])
async def test_tags_that_cannot_be_kept_are_refused(bench: Bench, tags: list[Any]) -> None:
    with pytest.raises(InvalidRequest, match="tag"):
        await bench.upload(tags=tags)


@pytest.mark.parametrize(
    "metadata", [{"a": float("nan")}, {"a": {1}}, {"a": "\0"}, {"a": "\ud800"}, {"a": "x" * 70_000}, [1]]
)
async def test_metadata_that_cannot_be_kept_is_refused(bench: Bench, metadata: Any) -> None:
    with pytest.raises(InvalidRequest, match="metadata"):
        await bench.upload(metadata=metadata)


@pytest.mark.parametrize(
    ("data", "error", "sentence"),
    [
        (b"", UnsupportedImage, "empty"),
        (b"no image at all", UnsupportedImage, "not an image of a format"),
        (picture(1)[:200], BrokenImage, "PNG image is damaged"),
        (picture(1, (101, 100), "GIF"), TooManyPixels, "100 x 101 pixels.* 10000 .*upload.max_pixels"),
        (picture(1, (90, 90)), TooLarge, r"at most 20000 are taken \(upload.max_bytes\)"),
    ],
)
async def test_what_is_refused_at_the_door_leaves_nothing_behind(
    bench: Bench, data: bytes, error: type[ImgsimError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        await bench.upload(data)

    assert await bench.images.list(ImageFilter(), 10) == []
    assert await bench.objects_there() == []


async def test_the_same_bytes_again_are_the_image_that_is_there(bench: Bench) -> None:
    first = await bench.upload(data := picture(), filename="first", tags=["first"])
    again = await bench.upload(data, filename="again", tags=["again"])

    assert (again.id, again.filename, again.tags, again.duplicate) == (first.id, "first", ["first"], True)
    assert not first.duplicate
    assert not (await bench.images.get(first.id)).duplicate


async def test_the_same_bytes_in_another_collection_are_another_image(bench: Bench) -> None:
    first, second = await bench.upload(data := picture()), await bench.upload(data, collection="other")

    assert first.id != second.id
    assert not second.duplicate


async def test_twenty_uploads_of_the_same_bytes_at_once_are_one_image(bench: Bench) -> None:
    data = picture()
    async with working(bench.container):
        images = await asyncio.gather(*(bench.upload(data) for _ in range(20)))
        await bench.at_rest(images[0].id)

    assert len({image.id for image in images}) == 1
    assert [image.duplicate for image in images].count(False) == 1
    assert len(await bench.images.list(ImageFilter(), 100)) == 1
    assert await bench.objects_there() == [original_key(images[0].id)]
    assert await bench.indexed() == {images[0].id}
    assert len(bench.container.pictures()) == 0  # none is stranded


async def test_with_the_queue_away_uploads_are_taken_and_processed_when_it_returns(bench: Bench) -> None:
    bench.jobs.away = True
    image = await bench.upload()
    await bench.ingest.settle()
    assert image.state is ImageState.CREATED
    assert (await bench.images.get(image.id)).state is ImageState.CREATED

    async with working(bench.container):
        with pytest.raises(Unavailable):
            await bench.lifecycle.reconcile()
        bench.jobs.away = False
        assert (await bench.at_rest(image.id)).searchable


async def test_a_lost_bell_is_rung_again(bench: Bench) -> None:
    image = await bench.upload()
    bench.jobs._bells.clear()

    async with working(bench.container):
        assert (await bench.at_rest(image.id)).searchable


# the work goes on


async def test_a_consumer_that_breaks_is_begun_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.jobs.breaks = 1
    async with asyncio.timeout(10), working(bench.container):
        image = await bench.upload()
        assert (await bench.at_rest(image.id)).searchable

    assert "A part of it broke." in caplog.text


async def test_what_the_dead_left_behind_keeps_nobody_from_working(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def lost(limit: int) -> Sequence[UUID]:
        raise RuntimeError("A row cannot be read.")

    monkeypatch.setattr(bench.images, "lost", lost)
    async with asyncio.timeout(10), working(bench.container):
        image = await bench.upload()
        assert (await bench.at_rest(image.id)).searchable

    assert "A row cannot be read." in caplog.text


# delete


async def test_a_deleted_image_is_gone_with_all_that_was_made_of_it(bench: Bench) -> None:
    image_id = await bench.done()
    derived = bench.container.ports().objects
    await derived.put(f"derived/{str(image_id)[-2:]}/{image_id}/thumbnail.webp", io.BytesIO(b"x"), "image/webp")

    await bench.lifecycle.delete(image_id)

    assert await bench.objects_there() == []
    assert await bench.indexed() == set()
    with pytest.raises(ImageNotFound):
        await bench.images.get(image_id)
    with pytest.raises(ImageNotFound):
        await bench.lifecycle.delete(image_id)
    assert await bench.images.tombstones(10) == []


async def test_a_delete_is_told(bench: Bench) -> None:
    image_id = await bench.done()
    with bench.container.events().listen(image_id) as listener:
        await bench.lifecycle.delete(image_id)
        event = await listener.next()

    assert event is not None
    assert (event.id, event.state, event.error) == (image_id, "deleted", None)


async def test_an_image_deleted_while_its_job_runs_never_comes_back(bench: Bench) -> None:
    image = await bench.upload()
    async with bench.held(image.id):
        await bench.lifecycle.delete(image.id)
        # The job may still write what the delete has removed, so the tombstone stays while its lease lives.
        await bench.vectors.upsert(bench.model, [Point(image.id, axis(0), "default")])
        assert await bench.lifecycle.reconcile() == 0
        with pytest.raises(ImageNotFound):
            await bench.images.get(image.id)

    await bench.images.release(bench.container.runner().owner)  # as the end of the lease
    await bench.lifecycle.reconcile()

    assert await bench.indexed() == set()
    assert await bench.objects_there() == []
    assert await bench.images.tombstones(10) == []
    with pytest.raises(ImageNotFound):
        await bench.images.get(image.id)


async def test_an_image_deleted_before_its_job_is_never_processed(bench: Bench) -> None:
    image = await bench.upload()
    await bench.lifecycle.delete(image.id)
    await bench.process(image.id)
    await bench.lifecycle.reconcile()

    assert await bench.indexed() == set()
    assert await bench.images.tombstones(10) == []


async def test_a_delete_with_the_index_away_is_done_for_the_user_and_finished_later(bench: Bench) -> None:
    image_id, other = await bench.done(), await bench.done()
    bench.vectors.away = True
    await bench.lifecycle.delete(image_id)

    with pytest.raises(ImageNotFound):
        await bench.images.get(image_id)
    answer = await bench.search.similar(other, Page(), EVERYWHERE)
    assert answer.results == [], "its vector is still there, but nobody sees it"
    await bench.lifecycle.reconcile()  # warns, and leaves it for the next look

    bench.vectors.away = False
    await bench.lifecycle.reconcile()
    assert await bench.indexed() == {other}
    assert await bench.objects_there() == [original_key(other)]


async def test_the_bytes_of_a_deleted_image_can_come_again(bench: Bench) -> None:
    first = await bench.done(data := picture())
    await bench.lifecycle.delete(first)
    second = await bench.done(data)

    assert second != first
    assert await bench.indexed() == {second}


# change and retry


async def test_new_tags_are_found_and_old_ones_are_not(bench: Bench) -> None:
    image_id, other = await bench.done(tags=["old"]), await bench.done(tags=["old"])

    changed = await bench.lifecycle.update(image_id, tags=["new", "new"], metadata={"a": 1})

    assert (changed.tags, changed.metadata) == (["new"], {"a": 1})
    assert await similar(bench, other, tags=["new"]) == [image_id]
    assert await similar(bench, other, tags=["old"]) == []


async def test_what_is_not_given_stays(bench: Bench) -> None:
    image = await bench.upload(tags=["a"], metadata={"b": 1})
    await bench.lifecycle.update(image.id, tags=["c"])

    assert (await bench.lifecycle.update(image.id, metadata={})).tags == ["c"]


async def test_tags_that_change_while_the_job_runs_land_in_the_index(bench: Bench) -> None:
    other = await bench.done()
    image = await bench.upload(tags=["old"])
    async with bench.held(image.id):
        await bench.lifecycle.update(image.id, tags=["new"])

    assert await similar(bench, other, tags=["new"]) == [image.id]
    assert await similar(bench, other, tags=["old"]) == []


async def test_tags_of_an_image_that_is_not_there_cannot_change(bench: Bench) -> None:
    with pytest.raises(ImageNotFound):
        await bench.lifecycle.update(uuid4(), tags=["a"])
    with pytest.raises(InvalidRequest):
        await bench.lifecycle.update((await bench.upload()).id, tags=[""])


async def test_only_an_image_in_error_can_be_retried_and_then_succeeds(bench: Bench) -> None:
    image = await bench.upload()
    key = original_key(image.id)
    data = [chunk async for chunk in bench.objects.get(key)]
    bench.container.pictures().pop(image.id)
    await bench.objects.put(key, io.BytesIO(b"not what was uploaded"), "image/png")
    assert "is created; only an image in error can be retried" in await fails(bench.lifecycle.retry(image.id))

    async with working(bench.container):
        assert (await bench.at_rest(image.id)).state is ImageState.ERROR
        await bench.objects.put(key, io.BytesIO(b"".join(data)), "image/png")
        retried = await bench.lifecycle.retry(image.id)
        assert (retried.state, retried.error) == (ImageState.PENDING, None)
        assert (await bench.at_rest(image.id)).searchable

    with pytest.raises(WrongState):
        await bench.lifecycle.retry(image.id)


async def test_an_image_that_kills_its_process_is_buried_after_its_last_attempt(bench: Bench) -> None:
    image = await bench.upload()
    for attempt in range(2):
        assert await bench.images.claim([image.id], "the-dead", 30, "embed", lost=attempt > 0)
        assert await bench.images.end_leases() == 1  # a new process begins
    with bench.container.events().listen(image.id) as listener:
        await bench.lifecycle.bury()
        event = await listener.next()

    assert event is not None
    assert event.error is not None
    assert (event.state, event.error.type) == ("error", "worker-lost")
    assert "in each of 2 attempts" in event.error.message


# search


def axis(number: int, tilt: float = 0.0) -> Vector:
    """A unit vector along one axis, tilted towards the next."""
    vector = np.zeros(256, np.float32)
    vector[number], vector[(number + 1) % 256] = 1.0, tilt
    return vector / np.linalg.norm(vector)


async def placed(bench: Bench, *vectors: Vector, **values: Any) -> list[UUID]:
    """Images that have these vectors."""
    image_ids = [await bench.done(**values) for _ in vectors]
    points = [
        Point.of(await bench.images.get(image_id), vector) for image_id, vector in zip(image_ids, vectors, strict=True)
    ]
    await bench.vectors.upsert(bench.model, points)
    return image_ids


async def similar(bench: Bench, image_id: UUID, limit: int = 10, **values: Any) -> list[UUID]:
    answer = await bench.search.similar(image_id, Page(limit, values.pop("min_score", None)), SearchFilter(**values))
    return [hit.image.id for hit in answer.results]


async def pages(
    bench: Bench, image_id: UUID, limit: int, where: SearchFilter = EVERYWHERE
) -> AsyncIterator[list[UUID]]:
    cursor = None
    while True:
        answer = await bench.search.similar(image_id, Page(limit, cursor=cursor), where)
        yield [hit.image.id for hit in answer.results]
        if (cursor := answer.next_cursor) is None:
            return


def examples(*image_ids: UUID) -> list[Example]:
    return [Example(image_id) for image_id in image_ids]


async def test_the_most_alike_come_first_and_the_image_itself_never(bench: Bench) -> None:
    asked, far, near, nearer = await placed(bench, axis(0), axis(0, 2), axis(0, 0.5), axis(0, 0.1))

    answer = await bench.search.similar(asked, Page(), EVERYWHERE)

    assert [hit.image.id for hit in answer.results] == [nearer, near, far]
    assert [hit.score for hit in answer.results] == pytest.approx([0.99504, 0.89443, 0.44721], abs=1e-4)
    assert (answer.model, answer.next_cursor) == (bench.model, None)


async def test_limit_and_least_score_bound_the_answer(bench: Bench) -> None:
    asked, far, near, nearer = await placed(bench, axis(0), axis(0, 2), axis(0, 0.5), axis(0, 0.1))

    assert await similar(bench, asked, limit=1) == [nearer]
    assert await similar(bench, asked, min_score=0.8) == [nearer, near]
    assert far not in await similar(bench, asked, min_score=0.5)


async def test_other_collections_and_other_tags_are_not_searched(bench: Bench) -> None:
    asked, both = await placed(bench, axis(0), axis(0, 0.1), tags=["a", "b"])
    (one,) = await placed(bench, axis(0, 0.2), tags=["a"])
    (other,) = await placed(bench, axis(0, 0.3), collection="other", tags=["a", "b"])

    assert await similar(bench, asked) == [both, one]
    assert await similar(bench, asked, tags=["a", "b"]) == [both]
    found = await bench.search.by_picture(np.zeros((8, 8, 3), np.uint8), Page(), SearchFilter("other"))
    assert [hit.image.id for hit in found.results] == [other]


async def test_equal_scores_are_in_the_order_of_their_ids_on_any_page_size(bench: Bench) -> None:
    asked, *twins = await placed(bench, *[axis(0)] * 30)
    wanted = sorted(twins, key=str)

    for limit in (1, 7, 29, 100):
        read = [image_id async for page in pages(bench, asked, limit) for image_id in page]
        assert read == wanted, limit


async def test_images_that_arrive_while_one_pages_neither_repeat_nor_hide_others(bench: Bench) -> None:
    asked, *there = await placed(bench, *(axis(0, 0.05 * n) for n in range(20)))
    read: list[UUID] = []
    async for page in pages(bench, asked, 4):
        read += page
        await placed(bench, axis(0, 0.001), axis(0, 0.01))  # ever more in front

    assert read == there


async def test_images_that_go_while_one_pages_hide_no_others(bench: Bench) -> None:
    asked, *there = await placed(bench, *(axis(0, 0.05 * n) for n in range(20)))
    read: list[UUID] = []
    async for page in pages(bench, asked, 4):
        read += page
        await bench.lifecycle.delete(page[0])

    assert read == there


async def test_filtered_pages_neither_repeat_nor_skip_while_images_come_and_go(bench: Bench) -> None:
    """Of every fourth image, in pages of four, while others in front and behind come, go and change their tags."""
    asked, *there = await placed(bench, *(axis(0, 0.02 * n) for n in range(48)), tags=["a"])
    for image_id in there[::4]:
        await bench.lifecycle.update(image_id, tags=["a", "b"], metadata={"album": 7})
    where = SearchFilter(any_tags=["b", "x"], no_tags=["c"], metadata={"album": 7.0})
    read: list[UUID] = []
    async for page in pages(bench, asked, 4, where):
        read += page
        await placed(bench, axis(0, 0.001), tags=["b"], metadata={"album": 7})  # in front: it was not there at first
        await placed(bench, axis(0, 0.97), tags=["b", "c"], metadata={"album": 7})
        await bench.lifecycle.delete(page[0])
        await bench.lifecycle.update(page[1], tags=["c"])

    assert read == there[::4]


async def test_changed_metadata_is_found_and_the_old_is_not(bench: Bench) -> None:
    other, image_id = await placed(bench, axis(0), axis(0, 0.1), metadata={"album": 7, "by": "Ann"})
    assert await similar(bench, other, metadata={"album": 7}) == [image_id]

    await bench.lifecycle.update(image_id, metadata={"album": 8})

    assert await similar(bench, other, metadata={"album": 7}) == []
    assert await similar(bench, other, metadata={"album": 8}) == [image_id]


async def test_an_image_is_found_by_the_time_at_which_it_was_stored(bench: Bench) -> None:
    before = datetime.now(UTC)
    other, image_id = await placed(bench, axis(0), axis(0, 0.1))
    after = datetime.now(UTC)

    assert await similar(bench, other, created_from=before, created_to=after) == [image_id]
    assert await similar(bench, other, created_from=after) == await similar(bench, other, created_to=before) == []
    refused = await fails(bench.search.similar(other, Page(), SearchFilter(created_from=after, created_to=before)))
    assert "created_from" in refused


@pytest.mark.parametrize("cursor", ["", "x", "!!!", "W10", "bnVsbA", "WzEsMl0", "\ud800", "x" * 5000])
async def test_a_cursor_that_no_answer_gave_is_refused(bench: Bench, cursor: str) -> None:
    asked = await bench.done()

    assert "is not a cursor that an answer gave" in await fails(
        bench.search.similar(asked, Page(cursor=cursor), EVERYWHERE)
    )


async def test_whoever_is_in_the_index_without_a_row_is_not_found(bench: Bench) -> None:
    (asked,) = await placed(bench, axis(0))
    await bench.vectors.upsert(bench.model, [Point(uuid4(), axis(0, n / 100), "default") for n in range(50)])
    (far,) = await placed(bench, axis(0, 3))

    assert await similar(bench, asked, limit=1) == [far]


async def test_an_image_that_is_not_done_yet_says_when_it_can_be_searched(bench: Bench) -> None:
    image = await bench.upload()

    refused = await fails(bench.search.similar(image.id, Page(), EVERYWHERE))
    assert re.fullmatch("not-searchable: The image is (created|pending); it can be searched when it is done.", refused)
    with pytest.raises(ImageNotFound):
        await bench.search.similar(uuid4(), Page(), EVERYWHERE)


async def test_a_vector_that_is_missing_in_the_index_is_told(bench: Bench) -> None:
    image_id = await bench.done()
    await bench.vectors.delete([image_id])

    with pytest.raises(NotSearchable, match="vector is not in the index"):
        await bench.search.similar(image_id, Page(), EVERYWHERE)


async def test_examples_find_what_is_like_the_positive_and_unlike_the_negative(bench: Bench) -> None:
    good, bad, like_good, like_both = await placed(bench, axis(0), axis(1), axis(0, 0.1), axis(0, 1))

    only_good = await bench.search.by_examples(examples(good), [], Page(), EVERYWHERE)
    answer = await bench.search.by_examples(examples(good), examples(bad), Page(), EVERYWHERE)

    assert [hit.image.id for hit in only_good.results] == [like_good, like_both, bad]
    assert [hit.image.id for hit in answer.results] == [like_good, like_both]
    assert answer.results[1].score < only_good.results[1].score


async def test_several_positive_examples_are_averaged_and_repeats_weigh(bench: Bench) -> None:
    one, two, between = await placed(bench, axis(0), axis(1), axis(0, 1))

    answer = await bench.search.by_examples(examples(one, two), [], Page(), EVERYWHERE)

    assert [hit.image.id for hit in answer.results] == [between]
    assert answer.results[0].score == pytest.approx(1, abs=1e-5)


async def test_weights_say_how_much_an_example_counts(bench: Bench) -> None:
    one, two, near_one, near_two = await placed(bench, axis(0), axis(2), axis(0, 0.2), axis(2, 0.2))

    async def score(positive: list[Example], negative: list[Example], of: UUID) -> float:
        answer = await bench.search.by_examples(positive, negative, Page(), EVERYWHERE)
        return next(hit.score for hit in answer.results if hit.image.id == of)

    toward_one = [Example(one, 3), Example(two)]
    assert await score(toward_one, [], near_one) == pytest.approx(3 / 10**0.5 / 1.04**0.5, abs=1e-5)
    assert await score(toward_one, [], near_two) == pytest.approx(1 / 10**0.5 / 1.04**0.5, abs=1e-5)
    # 2 mean(w p) - mean(w n): 2 of one direction, less a half of the other
    less_two = await score([Example(one)], [Example(two, 0.5)], near_two)
    assert less_two == pytest.approx(-0.5 / 4.25**0.5 / 1.04**0.5, abs=1e-5)
    assert await score([Example(one)], [Example(two)], near_two) < less_two
    huge = await score([Example(one, 3e300), Example(two, 1e300)], [], near_one)
    assert huge == pytest.approx(await score(toward_one, [], near_one), abs=1e-5)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
async def test_a_weight_is_a_number_above_0(bench: Bench, weight: float) -> None:
    one = await bench.done()
    for positive, negative in (([Example(one, weight)], []), (examples(one), [Example(one, weight)])):
        refused = await fails(bench.search.by_examples(positive, negative, Page(), EVERYWHERE))
        assert refused == f"invalid-request: The weight of an example is a number above 0, not {weight!r}."


async def test_examples_that_say_nothing_are_refused(bench: Bench) -> None:
    one, opposite = await placed(bench, axis(0), axis(0))

    assert "needs at least one positive" in await fails(bench.search.by_examples([], examples(one), Page(), EVERYWHERE))
    await bench.vectors.upsert(bench.model, [Point(opposite, -axis(0), "default")])
    both = [one, opposite]
    assert "cancel each other out" in await fails(bench.search.by_examples(examples(*both), [], Page(), EVERYWHERE))
    with pytest.raises(ImageNotFound, match=str(unknown := uuid4())):
        await bench.search.by_examples(examples(one), examples(unknown), Page(), EVERYWHERE)


async def test_a_model_without_text_says_so(bench: Bench) -> None:
    assert (await fails(bench.search.by_text("a cat", Page(), EVERYWHERE))).startswith("text-not-supported: ")
