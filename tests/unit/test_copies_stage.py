"""The stage ``copies`` on the in-memory adapters: what becomes of copies, also of two that come in at once."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from PIL import Image as Pillow

from imgsim.core.filters import MOST_TAGS
from imgsim.core.models import Image, ImageState, Match, OnCopy, SearchFilter, SearchHit
from imgsim.core.services.matches import Sample
from imgsim.pipeline.runner import Runner
from imgsim.pipeline.stage import StageContext
from imgsim.plugins.copies import CopiesStage, imgsim_stages
from imgsim.plugins.embed import EmbedStage
from imgsim.plugins.fingerprint import FingerprintStage, KnownFingerprints
from imgsim.plugins.index import IndexStage
from tests.unit.test_runner import Bench, Gate, Stage

DONE, PENDING = ImageState.DONE, ImageState.PENDING


class Album(Bench):
    """Uploads real photographs, changed or not."""

    def __init__(self, photos: list[Path]) -> None:
        super().__init__()
        self.reader.max_pixels = 1_000_000
        self.ingest._max_bytes = 1_000_000
        self._photos = photos

    async def put(self, number: int, quality: int = 95, cut: float = 0, **options: str) -> UUID:
        """`cut` is the share of width and height that is left out."""
        file = io.BytesIO()
        photo = Pillow.open(self._photos[number]).convert("RGB")
        cropped = photo.crop((int(photo.width * cut), int(photo.height * cut), *photo.size))
        cropped.save(file, "JPEG", quality=quality)
        image = await self.ingest.upload(file, **options)
        await self.ingest.settle()
        return image.id

    def stages(self, *more: Stage) -> Runner:
        fingerprint, copies = imgsim_stages(settings=None)
        return self.runner(EmbedStage(), fingerprint, IndexStage(), *more, copies)

    async def tagged(self, tag: str) -> list[UUID]:
        """What the index finds by a tag."""
        vector = next(iter((await self.vectors.fetch(self.embedder.model_id, list(await self.found()))).values()))
        hits = await self.vectors.query(self.embedder.model_id, vector, 10, SearchFilter(tags=[tag]))
        return [hit.id for hit in hits]

    async def until_indexed(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(await self.found()) < count:  # noqa: ASYNC110 (the index tells nobody)
                await asyncio.sleep(0.002)

    async def groups(self) -> list[list[UUID]]:
        return [[image.id for image in group.images] for group in await self.images.copy_groups(100)]


class Failing:
    name = "failing"
    after = ("index",)

    async def run(self, ctx: StageContext) -> None:
        raise ValueError("no")


@pytest.fixture
async def album(photos: list[Path]) -> AsyncIterator[Album]:
    album = Album(photos)
    async with album.images, album.objects, album.vectors, album.jobs, album.embedder:
        await album.vectors.open_collection(album.embedder.model_id, album.embedder.dimensions)
        yield album
        await album.reader.close()


def copies_of(image: Image) -> list[str]:
    return [copy["id"] for copy in image.features.get("copies", {}).get("of", [])]


async def test_copies_find_each_other_and_others_do_not(album: Album) -> None:
    runner = album.stages()
    original, other, copy = [await album.put(*which) for which in ((0, 95), (50, 95), (0, 40))]
    assert copies_of(await album.processed(runner, original)) == []
    assert copies_of(await album.processed(runner, other)) == []
    image = await album.processed(runner, copy)

    (found,) = image.features["copies"]["of"]
    assert (found["id"], found["distance"] <= 10, 0.9 < found["score"] <= 1) == (str(original), True, True)
    assert await album.groups() == [[original, copy]]
    assert (await album.images.copy_groups(1))[0].match is Match.COPY


async def test_another_process_reads_the_fingerprints_from_the_rows(album: Album) -> None:
    original, copy = await album.put(0), await album.put(0, 40)
    await album.processed(album.stages(), original)
    assert copies_of(await album.processed(album.stages(), copy)) == [str(original)]


async def test_copies_in_other_collections_and_gone_ones_do_not_count(album: Album) -> None:
    runner = album.stages()
    elsewhere, gone, copy = await album.put(0, collection="b"), await album.put(0, 80), await album.put(0, 40)
    await album.processed(runner, elsewhere)
    await album.processed(runner, gone)
    await album.images.entomb(gone)  # its vector is still there
    assert copies_of(await album.processed(runner, copy)) == []


async def test_images_from_before_fingerprints_are_passed_over(album: Album) -> None:
    original, copy = await album.put(0), await album.put(0, 40)
    await album.processed(album.runner(EmbedStage(), IndexStage()), original)
    assert copies_of(await album.processed(album.stages(), copy)) == []


@pytest.mark.parametrize("on_copy", [OnCopy.FLAG, OnCopy.REJECT])
async def test_what_is_no_copy_is_neither_flagged_nor_rejected(album: Album, on_copy: OnCopy) -> None:
    runner = album.stages()
    await album.processed(runner, await album.put(0, on_copy=on_copy))
    image = await album.processed(runner, await album.put(50, on_copy=on_copy))
    assert (image.searchable, image.tags, image.on_copy) == (True, [], on_copy)


async def test_a_flagged_copy_gets_a_tag_in_row_and_index(album: Album) -> None:
    runner = album.stages()
    await album.processed(runner, await album.put(0))
    image = await album.processed(runner, await album.put(0, 40, tags=["cat"], on_copy="flag"))
    assert (image.searchable, image.tags) == (True, ["cat", "copy"])
    assert await album.tagged("copy") == [image.id]


async def test_a_copy_that_has_no_room_for_the_tag_keeps_those_it_has(
    album: Album, caplog: pytest.LogCaptureFixture
) -> None:
    runner, tags = album.stages(), [f"{number}" for number in range(MOST_TAGS)]
    await album.processed(runner, await album.put(0))
    image = await album.processed(runner, await album.put(0, 40, tags=tags, on_copy="flag"))
    assert (image.searchable, image.tags) == (True, tags)
    assert f"image {image.id} is a copy, but has no room for the tag 'copy'" in caplog.text


async def test_a_rejected_copy_is_done_not_searchable_and_in_no_group(album: Album) -> None:
    runner = album.stages()
    original = await album.put(0)
    await album.processed(runner, original)
    image = await album.processed(runner, await album.put(0, 40, on_copy="reject"))
    assert (image.state, image.searchable) == (DONE, False)
    assert image.features["copies"] == {
        "rejected": True,
        "reason": f"It is a copy of the image {original} (on_copy=reject).",
    }
    assert await album.found() == {original}
    assert await album.groups() == []


async def at_once(album: Album, on_copy: str) -> tuple[Image, Image]:
    """The older and the younger of two copies that looked for each other when both were in the index."""
    older, younger = sorted([await album.put(0, on_copy=on_copy), await album.put(0, 40, on_copy=on_copy)])
    gate = Gate("both-are-indexed")
    gate.after = ("index",)
    runner = album.stages(gate)
    both = asyncio.create_task(runner.process([older, younger]))
    await album.until_indexed(2)
    gate.opened.set()
    await both
    return await album.until_at_rest(runner, older), await album.images.get(younger)


async def test_of_two_that_come_in_at_once_the_older_stays(album: Album) -> None:
    first, second = await at_once(album, "reject")
    assert (first.searchable, second.searchable, second.state) == (True, False, DONE)


async def test_of_two_that_come_in_at_once_one_is_flagged(album: Album) -> None:
    images = await at_once(album, "flag")
    assert [image.tags for image in images] == [[], ["copy"]]
    assert all(image.searchable for image in images)


async def test_the_older_waits_for_a_younger_that_has_not_seen_it(album: Album) -> None:
    older, younger = sorted([await album.put(0, on_copy="reject"), await album.put(0, 40, on_copy="reject")])
    gate = Gate("after-copies")
    gate.after = ("copies",)
    known = KnownFingerprints()
    slow = album.runner(EmbedStage(), FingerprintStage(known), IndexStage(), CopiesStage(known), gate, owner="slow")
    ahead = asyncio.create_task(slow.process([younger]))
    await gate.entered.wait()

    waiting = await album.processed(album.stages(), older)
    assert (waiting.state, waiting.error and waiting.error.type) == (PENDING, "retry-later")
    assert await album.images.failures(older) == 0
    gate.opened.set()
    await ahead
    rejected = await album.until_at_rest(album.stages(), older)
    assert rejected.features["copies"]["reason"].startswith(f"It is a copy of the image {younger}")
    assert (await album.images.get(younger)).searchable


async def test_a_dismissed_copy_stays_dismissed_when_the_stage_runs_again(album: Album) -> None:
    original, copy = await album.put(0), await album.put(0, 40)
    await album.processed(album.stages(), original)
    dies_once: list[Exception] = [RuntimeError("after copies")]

    async def work(ctx: StageContext) -> None:
        if dies_once:
            raise dies_once.pop()

    last = Stage(work, "last", after=("copies",))
    known = KnownFingerprints()
    runner = album.runner(EmbedStage(), FingerprintStage(known), IndexStage(), CopiesStage(known), last)
    await album.processed(runner, copy)
    await album.images.dismiss_group(original)
    assert (await album.processed(runner, copy)).state is DONE
    assert await album.groups() == []


async def test_a_copy_of_what_failed_is_still_compared_with_what_stays(album: Album) -> None:
    """The nearest is in the index, but in error; the original is a cut one, which only laying over each other tells."""

    original = await album.put(0, cut=0.1)
    await album.processed(album.stages(), original)
    failed = await album.put(0)
    fingerprint, _ = imgsim_stages(settings=None)
    failing = album.runner(EmbedStage(), fingerprint, IndexStage(), Failing(), attempts=1)
    assert (await album.processed(failing, failed)).state is ImageState.ERROR
    copy = await album.processed(album.stages(), await album.put(0, quality=60, on_copy="reject"))
    assert not copy.searchable
    assert str(original) in copy.features["copies"]["reason"]


async def test_a_copy_is_called_so_whichever_of_the_two_was_processed_first(album: Album) -> None:
    runner = album.stages()
    older, younger = sorted([await album.put(0), await album.put(0, 40)])
    for image_id in (younger, older):
        await album.processed(runner, image_id)
    images = await album.images.get_many([older, younger])
    assert copies_of(images[older]) == [str(younger)]
    assert copies_of(images[younger]) == []
    for mine, other in ((older, younger), (younger, older)):
        (hit,) = await Sample.of(images[mine]).matched([SearchHit(images[other], 0.99)])
        assert hit.match is Match.COPY


async def test_what_has_failed_already_is_no_original_for_which_a_copy_is_rejected(album: Album) -> None:
    older, younger = sorted([await album.put(0), await album.put(0, 40, on_copy="reject")])
    fingerprint, _ = imgsim_stages(settings=None)
    failing = album.runner(EmbedStage(), fingerprint, IndexStage(), Failing(), backoff=60.0)
    assert (await album.processed(failing, older)).state is ImageState.PENDING
    assert (await album.processed(album.stages(), younger)).searchable
