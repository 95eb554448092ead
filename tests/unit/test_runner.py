"""Every way an attempt on an image can end, on the in-memory adapters."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from PIL import Image as Pillow
from qdrant_client import AsyncQdrantClient

from imgsim.adapters.database.memory import MemoryImageRepository
from imgsim.adapters.embedding.colour import ColourEmbedder
from imgsim.adapters.images import ImageReader
from imgsim.adapters.jobs.inprocess import InProcessJobQueue
from imgsim.adapters.objects.memory import MemoryObjectStore
from imgsim.adapters.vectors.qdrant import QdrantVectorIndex
from imgsim.core.errors import (
    BrokenImage,
    EmbeddingFailed,
    ImageNotFound,
    ImageRejected,
    Overloaded,
    RetryLater,
    TooManyPixels,
    Unavailable,
    UnsupportedImage,
)
from imgsim.core.events import EventBus
from imgsim.core.models import (
    Image,
    ImageError,
    ImageFilter,
    ImageState,
    Picture,
    SearchFilter,
    Vectors,
    original_key,
)
from imgsim.core.pictures import PictureBuffer
from imgsim.core.precedence import Precedence
from imgsim.core.services import IngestService
from imgsim.pipeline.runner import Runner, RunPolicy
from imgsim.pipeline.stage import Ports, StageContext
from imgsim.plugins.embed import EmbedStage
from imgsim.plugins.index import IndexStage

DONE, ERROR, PENDING = ImageState.DONE, ImageState.ERROR, ImageState.PENDING
EVERYTHING = SearchFilter()


class Images(MemoryImageRepository):
    """Notes how long failed attempts are to wait, and how often leases were renewed. Can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []
        self.renewals = 0
        self.away = False

    async def fail(
        self, image_id: UUID, attempt: int, error: ImageError, retry_at: datetime | None, counts: bool = True
    ) -> Image:
        self.waits.append(None if retry_at is None else (retry_at - datetime.now(UTC)).total_seconds())
        return await super().fail(image_id, attempt, error, retry_at, counts)

    async def renew(self, owner: str, image_ids: Sequence[UUID], lease_seconds: float) -> set[UUID]:
        self.renewals += 1
        if self.away:
            raise Unavailable("the database is away")
        return await super().renew(owner, image_ids, lease_seconds)


class Index(QdrantVectorIndex):
    """Can be away."""

    away = False

    async def upsert(self, *arguments: Any) -> None:
        self._check()
        await super().upsert(*arguments)

    async def delete(self, *arguments: Any) -> None:
        self._check()
        await super().delete(*arguments)

    async def set_payload(self, *arguments: Any) -> None:
        self._check()
        await super().set_payload(*arguments)

    async def ping(self) -> None:
        self._check()

    def _check(self) -> None:
        if self.away:
            raise Unavailable("the index is away", retry_after=0)


class Fragile(ColourEmbedder):
    """Pictures of `width` end the process in which it runs; another one is there after some looks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.deaths = self._looks_until_back = 0

    async def embed_images(self, pictures: Sequence[Picture]) -> Vectors:
        await asyncio.sleep(0.01)  # its neighbours are under way, too
        if any(picture.shape[1] == self.width for picture in pictures):
            self.deaths += 1
            self._looks_until_back = 20
        if self._looks_until_back:
            raise Unavailable("the embedder is away")
        return await super().embed_images(pictures)

    async def ping(self) -> None:
        if self._looks_until_back:
            self._looks_until_back -= 1
            raise Unavailable("the embedder is away")


class Stage:
    """Does what it is told, and counts how often."""

    def __init__(
        self, work: Callable[[StageContext], Awaitable[Any]], name: str = "work", after: Sequence[str] = ()
    ) -> None:
        self.name, self.after = name, after
        self.quick = False
        self._work = work
        self.runs = 0

    async def run(self, ctx: StageContext) -> Any:
        self.runs += 1
        return await self._work(ctx)


def gives(value: Any, name: str = "work") -> Stage:
    async def work(ctx: StageContext) -> Any:
        return value

    return Stage(work, name)


def raises(*errors: BaseException | None, name: str = "work") -> Stage:
    """Raises the errors one after the other, then the last for ever; None: all is well."""
    left = list(errors)

    async def work(ctx: StageContext) -> None:
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is not None:
            raise error

    return Stage(work, name)


class Gate(Stage):
    """Waits in each run until it is opened."""

    def __init__(self, name: str = "gate") -> None:
        super().__init__(self._wait, name)
        self.entered, self.opened = asyncio.Event(), asyncio.Event()
        self.cancelled = 0

    async def _wait(self, ctx: StageContext) -> str:
        self.entered.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "through"


class Bench:
    """The in-memory adapters, and runners over them."""

    def __init__(self) -> None:
        self.images, self.objects, self.jobs = Images(), MemoryObjectStore(), InProcessJobQueue()
        self.vectors = Index(AsyncQdrantClient(":memory:"))
        self.embedder: ColourEmbedder = ColourEmbedder()
        self.reader = ImageReader(max_pixels=10_000, min_side=128, threads=1)
        self.events, self.pictures, self.precedence = EventBus(), PictureBuffer(1 << 20), Precedence()
        self.observed: list[tuple[str, str]] = []
        self._uploaded = 0
        self.ingest = IngestService(
            objects=self.objects,
            images=self.images,
            jobs=self.jobs,
            reader=self.reader,
            events=self.events,
            pictures=self.pictures,
            precedence=self.precedence,
            max_bytes=100_000,
            finds_copies=True,
        )

    def runner(
        self,
        *stages: Any,
        owner: str = "me",
        lease: float = 30.0,
        attempts: int = 3,
        backoff: float = 0.0,
        timeout: float = 30.0,
        retries: int = 0,
    ) -> Runner:
        return Runner(
            stages=stages or (EmbedStage(), IndexStage()),
            ports=Ports(self.objects, self.images, self.vectors, self.embedder),
            reader=self.reader,
            events=self.events,
            pictures=self.pictures,
            precedence=self.precedence,
            policy=RunPolicy(lease, attempts, backoff, lambda name: timeout, lambda name: retries),
            owner=owner,
            observe=lambda stage, seconds, outcome: self.observed.append((stage, outcome)),
        )

    async def upload(self, width: int = 20, **values: Any) -> UUID:
        self._uploaded += 1
        pixels = np.random.default_rng(self._uploaded).integers(0, 256, (20, width, 3), np.uint8)
        file = io.BytesIO()
        Pillow.fromarray(pixels).save(file, "PNG")
        image = await self.ingest.upload(file, **values)
        await self.ingest.settle()
        return image.id

    async def processed(self, runner: Runner, image_id: UUID) -> Image:
        """The image after one attempt."""
        await runner.process([image_id])
        return await self.images.get(image_id)

    async def until_at_rest(self, runner: Runner, image_id: UUID) -> Image:
        image = await self.processed(runner, image_id)
        while image.state not in (DONE, ERROR):
            image = await self.processed(runner, image_id)
        return image

    async def all_at_rest(self, runner: Runner, seconds: float = 20.0) -> Mapping[UUID, Image]:
        """All images, once no bell that the reconciler rings finds any more to do."""
        async with asyncio.timeout(seconds):
            while (counts := await self.images.counts())[DONE] + counts[ERROR] != sum(counts.values()):
                with suppress(Unavailable):
                    await runner.process([bell.id for bell in await self.images.due(100)])
                await asyncio.sleep(0.01)
        return {image.id: image for image in await self.images.list(ImageFilter(), 100)}

    async def found(self) -> set[UUID]:
        """Which images the index holds."""
        return {image_id async for image_id in self.vectors.ids(self.embedder.model_id)}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    async with bench.images, bench.objects, bench.vectors, bench.jobs, bench.embedder:
        await bench.vectors.open_collection(bench.embedder.model_id, bench.embedder.dimensions)
        yield bench
        await bench.reader.close()


@asynccontextmanager
async def running(work: Any) -> AsyncIterator[asyncio.Task[Any]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (conditions of any kind have no event)
            await asyncio.sleep(0.002)


# it goes well


async def test_the_built_in_stages_make_an_image_searchable(bench: Bench) -> None:
    image = await bench.processed(bench.runner(), image_id := await bench.upload())

    assert (image.state, image.stage, image.attempts, image.error) == (DONE, None, 1, None)
    assert image.searchable
    assert image.embedding is not None
    assert (image.embedding.model, image.embedding.dimensions) == ("colour-histogram@1", 256)
    assert await bench.found() == {image_id}


async def test_every_state_is_told_in_order(bench: Bench) -> None:
    with bench.events.listen() as listener:
        await bench.processed(bench.runner(EmbedStage(), gives(1, "extra"), IndexStage()), await bench.upload())
        told = [await listener.next() for _ in range(6)]

    assert [(event.state, event.stage) for event in told if event] == [
        ("created", None),
        ("pending", None),
        ("embedding", "embed"),
        ("embedding", "extra"),
        ("indexing", "index"),
        ("done", None),
    ]


async def test_a_quick_stage_is_noted_from_the_second_attempt_on(bench: Bench) -> None:
    quick = raises(ValueError("once"), None, name="extra")
    quick.quick = True
    runner, image_id = bench.runner(EmbedStage(), quick, IndexStage()), await bench.upload()
    with bench.events.listen() as listener:
        failed = await bench.processed(runner, image_id)
        assert failed.error is not None
        assert failed.error.stage == "extra"  # though the row did not say that it ran
        await bench.processed(runner, image_id)
        told = [await listener.next() for _ in range(6)]

    assert [(event.state, event.stage) for event in told if event] == [
        ("embedding", "embed"),
        ("pending", None),
        ("embedding", "embed"),
        ("embedding", "extra"),
        ("indexing", "index"),
        ("done", None),
    ]


async def test_a_stage_sees_in_the_row_what_stages_before_it_found(bench: Bench) -> None:
    async def reads(ctx: StageContext) -> Any:
        return (await ctx.ports.images.get(ctx.image.id)).features

    stages = gives({"a": 1}, "first"), EmbedStage(), IndexStage(), Stage(reads, "reads")
    image = await bench.processed(bench.runner(*stages), await bench.upload())

    assert image.features == {"first": {"a": 1}, "reads": {"first": {"a": 1}}}


async def test_results_land_in_the_features_by_stage_and_none_leaves_nothing(bench: Bench) -> None:
    async def sees(ctx: StageContext) -> Any:
        return {"earlier": dict(ctx.results)}

    runner = bench.runner(gives([1, 2.5, "x"], "a"), gives(None, "b"), Stage(sees, "c"), EmbedStage(), IndexStage())
    image = await bench.processed(runner, await bench.upload())

    assert image.features == {"a": [1, 2.5, "x"], "c": {"earlier": {"a": [1, 2.5, "x"]}}}


async def test_stages_see_the_row_the_bytes_and_the_picture_as_they_are(bench: Bench) -> None:
    seen: list[tuple[StageContext, bytes, Any, Any]] = []

    async def look(ctx: StageContext) -> None:
        seen.append((ctx, await ctx.data(), await ctx.picture(), await ctx.picture()))

    image_id = await bench.upload(tags=["cat"])
    await bench.processed(bench.runner(Stage(look)), image_id)

    ctx, data, picture, again = seen[0]
    assert (ctx.image.id, ctx.image.tags, ctx.image.stage) == (image_id, ["cat"], "work")
    assert data == b"".join([chunk async for chunk in bench.objects.get(original_key(image_id))])
    assert picture.shape == (20, 20, 3)
    assert again is picture


async def test_the_same_bytes_in_two_collections_are_embedded_once(bench: Bench) -> None:
    calls: list[int] = []

    class Counting(ColourEmbedder):
        async def embed_images(self, pictures: Any) -> Any:
            calls.append(len(pictures))
            return await super().embed_images(pictures)

    bench.embedder = Counting()
    first = await bench.upload(collection="a")
    bench._uploaded = 0
    second = await bench.upload(collection="b")

    await bench.runner().process([first, second])

    assert calls == [1]
    assert await bench.found() == {first, second}


async def test_every_run_of_a_stage_is_observed_with_its_outcome(bench: Bench) -> None:
    stage = raises(RuntimeError("x"), RetryLater("y", 0), Unavailable("z", 0), BrokenImage())
    await bench.until_at_rest(bench.runner(gives(1, "first"), stage), await bench.upload())

    assert bench.observed[::2] == [("first", "ok")] * 4
    assert [outcome for _, outcome in bench.observed[1::2]] == [
        "stage-failed",
        "retry-later",
        "unavailable",
        "broken-image",
    ]


# a stage refuses


async def test_a_rejected_image_ends_done_and_not_searchable_with_the_reason(bench: Bench) -> None:
    after = gives(1, "after")
    runner = bench.runner(gives(1, "before"), raises(ImageRejected("It is blank."), name="taste"), after)
    image = await bench.processed(runner, await bench.upload())

    assert (image.state, image.error, image.embedding, image.searchable) == (DONE, None, None, False)
    assert image.features == {"before": 1, "taste": {"rejected": True, "reason": "It is blank."}}
    assert after.runs == 0


async def test_a_rejection_after_the_index_takes_the_vector_out_again(bench: Bench) -> None:
    runner = bench.runner(EmbedStage(), IndexStage(), raises(ImageRejected("No.")))
    image = await bench.processed(runner, await bench.upload())

    assert not image.searchable
    assert await bench.found() == set()


async def test_a_rejection_while_the_index_is_away_waits_for_it_and_burns_no_budget(bench: Bench) -> None:
    runner = bench.runner(raises(ImageRejected("No.")), attempts=1)
    image_id = await bench.upload()

    bench.vectors.away = True
    assert (await bench.processed(runner, image_id)).state is PENDING
    bench.vectors.away = False

    image = (await bench.all_at_rest(runner))[image_id]
    assert (image.state, image.attempts) == (DONE, 2)


# it is to be tried again


@pytest.mark.parametrize("error", [RetryLater("The quota is used up.", 0), Overloaded("It is busy.", 0)])
async def test_waiting_for_others_burns_no_budget(bench: Bench, error: Exception) -> None:
    runner = bench.runner(raises(error, error, error, error, None), attempts=1)
    image_id = await bench.upload()

    for attempt in range(1, 5):
        image = await bench.processed(runner, image_id)
        assert (image.state, image.stage) == (PENDING, None)
        assert image.error == ImageError("work", error.code, str(error), attempt)
        assert await bench.images.failures(image_id) == 0

    image = await bench.processed(runner, image_id)
    assert (image.state, image.error, image.attempts) == (DONE, None, 5)


@pytest.mark.parametrize(
    ("error", "seconds"), [(RetryLater("Later.", 77), 77), (Overloaded("It is busy.", 7), 7), (RetryLater(), 30)]
)
async def test_an_error_says_itself_how_long_to_wait(bench: Bench, error: Exception, seconds: float) -> None:
    runner = bench.runner(stage := raises(error), backoff=1000)
    image_id = await bench.upload()
    await bench.processed(runner, image_id)

    assert bench.images.waits == [pytest.approx(seconds, abs=0.5)]
    await bench.processed(runner, image_id)
    assert stage.runs == 1, "it was not due yet"


async def test_a_wait_that_no_calendar_holds_is_cut(bench: Bench) -> None:
    image = await bench.processed(bench.runner(raises(RetryLater("Never.", float("inf")))), await bench.upload())

    assert image.state is PENDING
    assert bench.images.waits == [pytest.approx(30 * 86_400, abs=1)]


async def test_ordinary_failures_are_tried_again_until_the_last_attempt_and_then_rest_in_error(bench: Bench) -> None:
    runner = bench.runner(raises(KeyError("boom"), ValueError("bang")), attempts=3)
    image_id = await bench.upload()

    first = await bench.processed(runner, image_id)
    assert (first.state, first.stage) == (PENDING, None)
    assert first.error == ImageError("work", "stage-failed", "KeyError: 'boom'", 1)

    image = await bench.until_at_rest(runner, image_id)
    assert (image.state, image.stage, image.attempts) == (ERROR, "work", 3)
    assert image.error == ImageError("work", "stage-failed", "ValueError: bang", 3)
    await runner.process([image_id])
    assert (await bench.images.get(image_id)).attempts == 3, "it rests"


async def test_the_waits_between_attempts_double(bench: Bench) -> None:
    runner = bench.runner(raises(ValueError("bang")), attempts=6, backoff=2.0)
    image_id = await bench.upload()
    for _ in range(6):
        await runner.process([image_id])
        bench.images._rows[image_id].due_at = 0.0 if bench.images.waits[-1] is not None else None

    assert bench.images.waits[:-1] == [pytest.approx(seconds, abs=0.5) for seconds in (2, 4, 8, 16, 32)]
    assert bench.images.waits[-1] is None


async def test_after_a_failure_the_next_attempt_can_succeed_and_leaves_no_error(bench: Bench) -> None:
    image = await bench.until_at_rest(bench.runner(raises(ValueError(), None)), await bench.upload())

    assert (image.state, image.attempts, image.error) == (DONE, 2, None)


async def test_retry_gives_a_new_budget(bench: Bench) -> None:
    runner = bench.runner(raises(ValueError("1"), ValueError("2"), ValueError("3"), None), attempts=2)
    image_id = await bench.upload()
    assert (await bench.until_at_rest(runner, image_id)).state is ERROR

    await bench.images.retry(image_id)

    image = await bench.until_at_rest(runner, image_id)
    assert (image.state, image.attempts) == (DONE, 4)


async def test_an_error_of_imgsims_own_keeps_its_type_and_sentence(bench: Bench) -> None:
    image = await bench.until_at_rest(bench.runner(raises(EmbeddingFailed("All zeros."))), await bench.upload())

    assert image.error == ImageError("work", "embedding-failed", "All zeros.", 3)


@pytest.mark.parametrize("error", [BrokenImage("Cut off."), UnsupportedImage("A text."), TooManyPixels("Huge.")])
async def test_what_lies_in_the_bytes_is_not_tried_again(bench: Bench, error: Exception) -> None:
    image = await bench.processed(bench.runner(raises(error), attempts=5, retries=3), await bench.upload())

    assert (image.state, image.attempts) == (ERROR, 1)
    assert image.error is not None
    assert image.error.message == str(error)


async def test_a_very_long_message_is_cut(bench: Bench) -> None:
    image = await bench.processed(bench.runner(raises(ValueError("x" * 9999)), attempts=1), await bench.upload())

    assert image.error is not None
    assert len(image.error.message) == 1000


async def test_an_error_without_words_is_named(bench: Bench) -> None:
    image = await bench.processed(bench.runner(raises(AssertionError()), attempts=1), await bench.upload())

    assert image.error is not None
    assert image.error.message == "AssertionError"


async def test_a_stage_that_takes_too_long_is_stopped_and_names_the_limit_and_its_setting(bench: Bench) -> None:
    gate = Gate()
    image = await bench.processed(bench.runner(gate, attempts=1, timeout=0.01), await bench.upload())

    sentence = "The stage took longer than 0.01 s (pipeline.timeout_seconds)."
    assert image.error == ImageError("gate", "timeout", sentence, 1)
    assert gate.cancelled == 1


async def test_a_timeout_of_the_stages_own_is_told_in_its_own_words(bench: Bench) -> None:
    image = await bench.processed(bench.runner(raises(TimeoutError("DNS")), attempts=1), await bench.upload())

    assert image.error == ImageError("work", "timeout", "TimeoutError: DNS", 1)


async def test_retries_of_a_stage_happen_within_the_attempt(bench: Bench) -> None:
    runner = bench.runner(before := gives(1, "before"), stage := raises(ValueError(), ValueError(), None), retries=2)
    image = await bench.processed(runner, await bench.upload())

    assert (image.state, image.attempts, stage.runs, before.runs) == (DONE, 1, 3, 1)


async def test_retries_of_a_stage_come_to_an_end(bench: Bench) -> None:
    runner = bench.runner(stage := raises(ValueError()), retries=2, attempts=2)
    image = await bench.until_at_rest(runner, await bench.upload())

    assert (image.state, image.attempts, stage.runs) == (ERROR, 2, 6)


@pytest.mark.parametrize("value", [{1, 2}, object(), float("nan"), {"a": b"bytes"}])
async def test_a_result_that_json_cannot_hold_fails_the_attempt(bench: Bench, value: Any) -> None:
    image = await bench.processed(bench.runner(gives(value), attempts=1), await bench.upload())

    assert image.state is ERROR
    assert image.error is not None
    assert image.error.type == "stage-failed"
    assert "The stage work returned something that JSON cannot hold" in image.error.message


@pytest.mark.parametrize("escaping", [asyncio.CancelledError(), SystemExit(3)])
async def test_nothing_that_escapes_from_a_stage_ends_more_than_its_attempt(
    bench: Bench, escaping: BaseException
) -> None:
    image = await bench.processed(bench.runner(raises(escaping), attempts=1), await bench.upload())

    sentence = f"RuntimeError: the stage raised {type(escaping).__name__}"
    assert image.error == ImageError("work", "stage-failed", sentence, 1)


async def test_missing_bytes_fail_the_attempt_and_say_so(bench: Bench) -> None:
    bench.pictures = PictureBuffer(0)
    image_id = await bench.upload()
    bench.pictures.pop(image_id)
    await bench.objects.delete(original_key(image_id))

    image = await bench.until_at_rest(bench.runner(Stage(lambda ctx: ctx.data())), image_id)

    assert image.error is not None
    assert image.error.type == "object-not-found"


# a part is away


async def test_while_a_part_is_away_nothing_is_taken_and_no_attempt_counts(bench: Bench) -> None:
    runner = bench.runner(attempts=1)
    image_ids = [await bench.upload() for _ in range(3)]
    bench.vectors.away = True
    await runner.process(image_ids)
    with pytest.raises(Unavailable, match="takes no images for now"):
        await runner.process(image_ids)

    for image in (await bench.images.get_many(image_ids)).values():
        assert (image.state, image.attempts) == (PENDING, 1)
        assert await bench.images.failures(image.id) == 0
        assert bench.images.waits == [pytest.approx(0, abs=0.5)] * 3, "whoever sees the part may take it at once"
    bench.vectors.away = False
    images = await bench.all_at_rest(runner)
    assert {(image.state, image.attempts) for image in images.values()} == {(DONE, 2)}


async def test_a_second_outage_counts_no_attempt_either(bench: Bench) -> None:
    runner = bench.runner(attempts=1)
    image_ids = [await bench.upload() for _ in range(3)]
    for _ in range(2):
        bench.vectors.away = True
        await runner.process(image_ids)
        await asyncio.sleep(0.01)  # it looks, and sees that the part is away
        bench.vectors.away = False
        async with asyncio.timeout(10):
            await runner._gate.opened()

    images = await bench.all_at_rest(runner)
    assert {(image.state, image.attempts) for image in images.values()} == {(DONE, 3)}


async def test_what_only_one_image_finds_unavailable_counts_as_its_failure_and_holds_nobody_up(bench: Bench) -> None:
    refused, fine = await bench.upload(), await bench.upload()

    async def look(ctx: StageContext) -> None:
        if ctx.image.id == refused:
            raise Unavailable("The object store refuses this key.")

    runner = bench.runner(Stage(look), EmbedStage(), IndexStage(), attempts=3, backoff=0.02)
    await runner.process([refused])
    async with asyncio.timeout(0.5):
        assert (await bench.processed(runner, fine)).state is DONE
    assert bench.images.waits == [pytest.approx(0.02, abs=0.02)]

    image = (await bench.all_at_rest(runner))[refused]
    assert (image.state, image.attempts) == (ERROR, 3)
    assert image.error == ImageError("work", "unavailable", "The object store refuses this key.", 3)


async def test_a_picture_that_kills_the_embedder_rests_in_error_and_its_neighbours_pay_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgsim.pipeline.runner._SECONDS_BETWEEN_LOOKS", 0.001)
    bench.embedder = fragile = Fragile(width=30)
    runner = bench.runner(attempts=2)
    neighbours = [await bench.upload() for _ in range(3)]
    deadly = await bench.upload(width=30)
    neighbours += [await bench.upload() for _ in range(3)]

    images = await bench.all_at_rest(runner)

    assert images[deadly].state is ERROR
    assert images[deadly].error == ImageError("embed", "unavailable", "the embedder is away", images[deadly].attempts)
    assert 2 <= fragile.deaths <= 5
    for image_id in neighbours:
        assert images[image_id].state is DONE
        assert await bench.images.failures(image_id) == 1, "the attempt that went well"


async def test_an_outcome_that_cannot_be_noted_though_all_answers_holds_nobody_up(bench: Bench) -> None:
    refused, fine = await bench.upload(), await bench.upload()

    class Refusing(Images):
        async def finish(self, image_id: UUID, *arguments: Any) -> Image:
            if image_id == refused:
                raise Unavailable("The database refuses this row.")
            return await super().finish(image_id, *arguments)

        async def fail(self, image_id: UUID, *arguments: Any, **options: Any) -> Image:
            if image_id == refused:
                raise Unavailable("The database refuses this row.")
            return await super().fail(image_id, *arguments, **options)

    refusing = Refusing()
    refusing._rows = bench.images._rows
    bench.images = refusing
    runner = bench.runner()
    await runner.process([refused])
    await asyncio.sleep(0)  # the gate is shut now
    async with asyncio.timeout(0.5):
        assert (await bench.processed(runner, fine)).state is DONE


# many images


async def test_one_bad_image_of_a_batch_fails_alone(bench: Bench) -> None:
    image_ids = [await bench.upload() for _ in range(4)]
    broken, failing = image_ids[0], image_ids[2]
    bench.pictures.pop(broken)
    await bench.objects.put(original_key(broken), io.BytesIO(b"\x89PNG\r\n\x1a\n, and then nothing"), "image/png")

    async def pick(ctx: StageContext) -> None:
        if ctx.image.id == failing:
            raise ValueError("this one")

    await bench.runner(Stage(pick), EmbedStage(), IndexStage(), attempts=1).process(image_ids)

    images = await bench.images.get_many(image_ids)
    assert [images[image_id].state for image_id in image_ids] == [ERROR, DONE, ERROR, DONE]
    errors = [images[broken].error, images[failing].error]
    assert [(error.stage, error.type) for error in errors if error] == [
        ("embed", "broken-image"),
        ("work", "stage-failed"),
    ]


async def test_images_that_are_not_there_finished_or_taken_are_passed_over(bench: Bench) -> None:
    finished, taken, free = [await bench.upload() for _ in range(3)]
    await bench.runner().process([finished])
    await bench.images.claim([taken], "somebody", 30, "work")

    runner = bench.runner(stage := gives(1))
    await runner.process([finished, taken, free, UUID(int=1)])

    assert stage.runs == 1
    assert (await bench.images.get(taken)).state is PENDING


# leases


async def test_a_delete_in_the_middle_ends_the_attempt_and_changes_nothing(bench: Bench) -> None:
    runner = bench.runner(gate := Gate(), after := gives(1, "after"))
    image_id = await bench.upload()
    async with running(runner.process([image_id])) as work:
        await gate.entered.wait()
        await bench.images.entomb(image_id)
        gate.opened.set()
        await work

    assert after.runs == 0
    with pytest.raises(ImageNotFound):
        await bench.images.get(image_id)


async def test_whoever_comes_back_after_his_lease_changes_nothing(bench: Bench) -> None:
    slow = bench.runner(gate := Gate(), IndexStage(), lease=0.01, owner="slow")
    image_id = await bench.upload()
    async with running(slow.process([image_id])) as work:
        await gate.entered.wait()
        fast = bench.runner(gives("fast"), owner="fast")
        while (await bench.images.get(image_id)).state is not DONE:
            await fast.recover()
        before = await bench.images.get(image_id)
        gate.opened.set()
        await work

    assert before.features == {"work": "fast"}
    assert await bench.images.get(image_id) == before
    assert bench.images.waits == []


async def test_the_heartbeat_keeps_an_image_for_longer_than_its_lease(bench: Bench) -> None:
    runner = bench.runner(gate := Gate(), lease=0.3)
    rival = bench.runner(rivals := gives(1), owner="rival")
    image_id = await bench.upload()
    async with running(runner.heartbeat()), running(runner.process([image_id])) as work:
        await gate.entered.wait()
        for beat in range(6):  # twice the lease
            await until(lambda beat=beat: bench.images.renewals > beat)
            await rival.process([image_id])
            await rival.recover()
        gate.opened.set()
        await work

    image = await bench.images.get(image_id)
    assert (image.state, image.attempts, gate.runs, rivals.runs) == (DONE, 1, 1, 0)


async def test_the_heartbeat_stops_work_on_a_lost_image_and_only_that(bench: Bench) -> None:
    runner = bench.runner(gate := Gate(), lease=0.05)
    lost, kept = await bench.upload(), await bench.upload()
    async with running(runner.heartbeat()), running(runner.process([lost, kept])) as work:
        await until(lambda: gate.runs == 2)
        await bench.images.entomb(lost)
        await until(lambda: gate.cancelled == 1)
        gate.opened.set()
        await work

    assert (await bench.images.get(kept)).state is DONE


async def test_the_heartbeat_outlives_a_database_that_is_away(bench: Bench) -> None:
    runner = bench.runner(gate := Gate(), lease=0.03)
    bench.images.away = True
    image_id = await bench.upload()
    async with running(runner.heartbeat()) as heart, running(runner.process([image_id])) as work:
        await gate.entered.wait()
        await until(lambda: bench.images.renewals >= 2)
        bench.images.away = False
        await until(lambda: bench.images.renewals >= 4)
        assert not heart.done()
        gate.opened.set()
        await work


async def test_tags_and_metadata_that_change_while_the_job_runs_land_in_the_index(bench: Bench) -> None:
    class Slow(IndexStage):
        async def run(self, ctx: StageContext) -> None:
            await super().run(ctx)
            await gate.run(ctx)

    gate = Gate()
    image_id = await bench.upload(tags=["old"])
    async with running(bench.runner(EmbedStage(), Slow()).process([image_id])) as work:
        await gate.entered.wait()
        await bench.images.update(image_id, tags=["new"], metadata={"album": 7})
        gate.opened.set()
        await work

    vector = (await bench.vectors.fetch(bench.embedder.model_id, [image_id]))[image_id]
    hits = await bench.vectors.query(
        bench.embedder.model_id, vector, 5, SearchFilter(tags=["new"], metadata={"album": 7})
    )
    assert [hit.id for hit in hits] == [image_id]


async def test_an_image_is_done_and_told_so_even_if_its_new_tags_cannot_be_indexed(bench: Bench) -> None:
    gate = Gate()
    image_id = await bench.upload()
    with bench.events.listen(image_id) as listener:
        async with running(bench.runner(EmbedStage(), IndexStage(), gate).process([image_id])) as work:
            await gate.entered.wait()
            await bench.images.update(image_id, tags=["new"])
            bench.vectors.away = True
            gate.opened.set()
            await work
        told = [(await listener.next()) for _ in range(4)]

    assert [event.state for event in told if event] == ["embedding", "indexing", "indexing", "done"]
    assert (await bench.images.get(image_id)).searchable


# the process stops


async def test_cancelled_and_released_an_image_is_handed_back_with_its_budget(bench: Bench) -> None:
    runner = bench.runner(gate := Gate(), attempts=1)
    image_id = await bench.upload()
    async with running(runner.process([image_id])) as work:
        await gate.entered.wait()
        work.cancel()
        await asyncio.wait([work])
        assert work.cancelled()
        await runner.release()

    image = await bench.images.get(image_id)
    assert (image.state, image.stage, image.error) == (PENDING, None, None)
    assert await bench.images.failures(image_id) == 0
    assert (await bench.processed(bench.runner(gives(1), owner="next", attempts=1), image_id)).state is DONE


async def test_releasing_with_the_database_away_leaves_it_to_the_leases(bench: Bench) -> None:
    class Away(Images):
        async def release(self, owner: str | None) -> Sequence[UUID]:
            raise Unavailable("away")

    bench.images = Away()
    await bench.runner().release()


async def test_draining_waits_for_what_runs_and_claims_nothing_more(bench: Bench) -> None:
    runner = bench.runner(gate := Gate())
    first, second = await bench.upload(), await bench.upload()
    async with running(runner.process([first])) as work:
        await gate.entered.wait()
        async with running(runner.drain(30)) as drain:
            await asyncio.sleep(0)  # it has begun
            async with running(runner.process([second])) as bell:
                assert not drain.done()
                gate.opened.set()
                await drain
                with pytest.raises(Unavailable):  # it is left to others
                    await bell
        await work

    assert (await bench.images.get(first)).state is DONE
    assert (await bench.images.get(second)).attempts == 0


async def test_draining_gives_up_after_its_seconds(bench: Bench) -> None:
    runner = bench.runner(gate := Gate())
    async with running(runner.process([await bench.upload()])) as work:
        await gate.entered.wait()
        async with asyncio.timeout(10):
            await runner.drain(0.01)
        assert not work.done()


async def test_hurrying_ends_the_drain_and_leaves_the_work_to_be_handed_back(bench: Bench) -> None:
    runner = bench.runner(gate := Gate(), attempts=1)
    image_id = await bench.upload()
    async with running(runner.process([image_id])), running(runner.drain(1000)) as drain:
        await gate.entered.wait()
        runner.hurry()
        async with asyncio.timeout(10):
            await drain
        await runner.release()

    assert gate.cancelled == 1
    assert (await bench.images.get(image_id)).state is PENDING
    assert await bench.images.failures(image_id) == 0


async def test_draining_an_idle_runner_returns_at_once(bench: Bench) -> None:
    async with asyncio.timeout(10):
        await bench.runner().drain(1000)


async def test_steps_let_a_search_pass_but_not_for_ever(bench: Bench) -> None:
    begun: list[float] = []

    class Step:
        name = "step"

        async def run(self, ctx: StageContext) -> None:
            begun.append(time.monotonic())

    runner = bench.runner(Step())
    first, second = await bench.upload(), await bench.upload()
    with bench.precedence.search():
        processing = asyncio.create_task(runner.process([first]))
        await asyncio.sleep(0.02)
        assert not begun
        with bench.precedence.search():  # somebody else's
            pass
        await asyncio.sleep(0)
        assert not begun
    await processing
    assert len(begun) == 1
    with bench.precedence.search():  # it does not end
        await asyncio.wait_for(runner.process([second]), 5)
    assert len(begun) == 2
