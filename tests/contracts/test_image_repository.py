"""What every image repository promises: rows, leases, deletes and the embedding cache."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import numpy as np
import pytest

from imgsim.core.errors import ImageNotFound, InvalidRequest, LeaseLost, WrongState
from imgsim.core.filters import MOST_TAGS
from imgsim.core.models import (
    Bell,
    CacheKey,
    EmbeddingInfo,
    Image,
    ImageError,
    ImageFilter,
    ImageState,
    Reservation,
    least_id_at,
    new_image_id,
)
from imgsim.core.ports import ImageRepository
from imgsim.settings import Database, Settings
from tests.servers import PostgreSQL

T = TypeVar("T")

LONG, SHORT = 60.0, 0.05  # leases, in seconds
MODEL = EmbeddingInfo("efficientnet-lite0@1", 1280)
BROKEN = ImageError("embed", "stage-failed", "The stage embed failed.", 1)


def opened(url: str) -> AbstractAsyncContextManager[ImageRepository]:
    from imgsim.adapters.database import DATABASES

    return DATABASES[url.partition(":")[0]](Settings(database=Database(url=url)))


@pytest.fixture(scope="session")
async def template(postgresql: PostgreSQL) -> str:
    """A database with tables, to make others from."""
    url = postgresql.new_database()
    async with opened(url):
        return url.rpartition("/")[2]


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new, empty repository lies."""
    if request.param == "memory":
        return "memory:"
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/imgsim.sqlite"
    postgresql, name = request.getfixturevalue("postgresql"), f"images_{uuid4().hex}"
    postgresql.execute(f"CREATE DATABASE {name} TEMPLATE {request.getfixturevalue('template')}")
    return f"{postgresql.url.rpartition('/')[0]}/{name}"


@pytest.fixture
async def repository(url: str) -> AsyncIterator[ImageRepository]:
    async with opened(url) as repository:
        yield repository


def new_image(**changes: Any) -> Image:
    now = datetime.now(UTC)
    image = Image(
        id=new_image_id(),
        collection="default",
        state=ImageState.CREATED,
        stage=None,
        duplicate=False,
        sha256=uuid4().hex * 2,
        filename="cat.jpg",
        content_type="image/jpeg",
        bytes=183_042,
        width=1200,
        height=800,
        tags=[],
        metadata={},
        attempts=0,
        error=None,
        embedding=None,
        features={},
        created_at=now,
        updated_at=now,
    )
    return replace(image, **changes)


async def add(repository: ImageRepository, **changes: Any) -> Image:
    return await repository.add(new_image(**changes))


async def add_many(repository: ImageRepository, count: int, **changes: Any) -> list[UUID]:
    """Ids, ascending, of images added in that order."""
    image_ids = sorted(new_image_id() for _ in range(count))
    return [(await add(repository, id=image_id, **changes)).id for image_id in image_ids]


async def claim(
    repository: ImageRepository,
    image_id: UUID,
    owner: str = "one",
    seconds: float = LONG,
    stage: str = "embed",
    lost: bool = False,
) -> Image:
    (image,) = await repository.claim([image_id], owner, seconds, stage, lost)
    return image


async def until(condition: Callable[[], Awaitable[T]], seconds: float = 10.0) -> T:
    """What `condition` gives once that is not empty."""
    async with asyncio.timeout(seconds):
        while not (value := await condition()):  # noqa: ASYNC110 (time makes the condition, not an event)
            await asyncio.sleep(0.005)
        return value


async def due(repository: ImageRepository, limit: int = 1000) -> list[UUID]:
    return [bell.id for bell in await repository.due(limit)]


async def until_due(repository: ImageRepository, image_id: UUID) -> None:
    async def is_due() -> bool:
        return image_id in await due(repository)

    await until(is_due)


async def until_lost(repository: ImageRepository, image_id: UUID) -> None:
    async def is_lost() -> bool:
        return image_id in await repository.lost(1000)

    await until(is_lost)


async def to_error(repository: ImageRepository, image_id: UUID) -> Image:
    attempt = (await claim(repository, image_id)).attempts
    return await repository.fail(image_id, attempt, BROKEN, None)


# rows


async def test_an_image_comes_back_as_it_went_in(repository: ImageRepository) -> None:
    image = new_image(
        collection="Katzen 'n' \"Hunde\"; DROP TABLE image; --",
        filename='ein "Bild" – 猫 🐈\\ \'%_.jpg',
        tags=["Übung", "it's", 'say "hi"', "100%_", "[1]", "a,b", "🐈", "{}", "$1 ?"],
        metadata={"nested": {"list": [1, 2.5, None, True, {"k'ey\"": "üä\n\t"}], "empty": {}}, "😀": "", "big": 2**53},
        features={"moderation": {"score": 0.25}},
    )
    assert await repository.add(image) == image
    assert await repository.get(image.id) == image
    assert await repository.find(image.collection, image.sha256) == image
    assert (await repository.get_many([image.id]))[image.id] == image
    assert list(await repository.list(ImageFilter(image.collection, None, image.tags), 10)) == [image]


async def test_times_are_aware_and_utc_to_the_microsecond(repository: ImageRepository) -> None:
    moment = datetime(2024, 2, 29, 23, 30, 0, 1, timezone(timedelta(hours=-5)))
    image = await add(repository, created_at=moment, updated_at=moment.replace(microsecond=0))
    await claim(repository, image.id)
    image = await repository.get(image.id)
    assert image.created_at == moment
    for time in (image.created_at, image.updated_at):
        assert time.utcoffset() == timedelta(0)


async def test_callers_cannot_change_what_is_kept(repository: ImageRepository) -> None:
    metadata: dict[str, Any] = {"list": [1]}
    image = await add(repository, metadata=metadata)
    metadata["list"].append(2)
    image.metadata["list"].append(3)
    assert (await repository.get(image.id)).metadata == {"list": [1]}


async def test_each_state_has_the_time_when_it_was_last_entered(repository: ImageRepository) -> None:
    image = await add(repository)
    assert image.states == {ImageState.CREATED: image.created_at}
    seen = [image, *await repository.mark_pending([image.id]), await claim(repository, image.id)]
    seen.append(await repository.advance(image.id, 1, "other", {}))
    seen.append(await repository.advance(image.id, 1, "index", {}))
    seen.append(await repository.finish(image.id, 1, {}, MODEL))
    assert list(seen[-1].states) == ["created", "pending", "embedding", "indexing", "done"]
    assert [*seen[-1].states.values()] == sorted(seen[-1].states.values())
    for before, after in pairwise(seen):
        if after.state is before.state:
            assert after.states == before.states
        else:
            assert after.states == {**before.states, after.state: after.updated_at}
    tagged = await repository.update(image.id, tags=["a"])
    assert tagged.states == seen[-1].states
    assert await repository.get(image.id) == tagged


async def test_a_state_that_comes_again_has_the_later_time(repository: ImageRepository) -> None:
    image = await add(repository)
    first = await claim(repository, image.id)
    soon = datetime.now(UTC)
    pending = await repository.fail(image.id, 1, BROKEN, soon)
    assert list(pending.states) == ["created", "pending", "embedding"]
    assert pending.states[ImageState.PENDING] == pending.updated_at > first.states[ImageState.EMBEDDING]
    again = await until(lambda: repository.claim([image.id], "one", LONG, "embed"))
    assert again[0].states[ImageState.EMBEDDING] == again[0].updated_at > pending.updated_at
    failed = await repository.fail(image.id, 2, BROKEN, None)
    assert failed.states == {**again[0].states, ImageState.ERROR: failed.updated_at}
    retried = await repository.retry(image.id)
    assert retried.states == {**failed.states, ImageState.PENDING: retried.updated_at}
    await claim(repository, image.id)
    await repository.release("one")
    released = await repository.get(image.id)
    assert released.states[ImageState.PENDING] == released.updated_at > retried.updated_at


async def test_those_that_are_buried_have_the_time_of_their_error(repository: ImageRepository) -> None:
    image = await add(repository)
    await claim(repository, image.id, seconds=SHORT)
    (buried,) = await until(lambda: repository.bury(1))
    assert buried.states[ImageState.ERROR] == buried.updated_at


async def test_the_times_of_an_image_from_elsewhere_are_kept(repository: ImageRepository) -> None:
    now = datetime.now(UTC)
    states = {state: now - timedelta(seconds=9 - number) for number, state in enumerate(ImageState)}
    image = await add(
        repository, state=ImageState.DONE, states=states, created_at=states[ImageState.CREATED], updated_at=now
    )
    assert (await repository.get(image.id)).states == states


async def test_changes_show_in_updated_at(repository: ImageRepository) -> None:
    image = await add(repository)
    times = [image.updated_at, (await repository.update(image.id, tags=["a"])).updated_at]
    times += [image.updated_at for image in await repository.mark_pending([image.id])]
    times += [(await claim(repository, image.id)).updated_at]
    times += [(await repository.finish(image.id, 1, {}, MODEL)).updated_at]
    assert times == sorted(times)
    assert times[0] < times[-1]


async def test_the_same_bytes_in_a_collection_are_one_image(repository: ImageRepository) -> None:
    first = await add(repository, tags=["first"])
    second = await add(repository, sha256=first.sha256, tags=["second"], filename="other.jpg")
    assert second == replace(first, duplicate=True)
    assert await repository.get(first.id) == first
    elsewhere = await add(repository, sha256=first.sha256, collection="other")
    assert not elsewhere.duplicate
    assert elsewhere.id != first.id


async def test_a_duplicate_tells_how_the_existing_image_stands(repository: ImageRepository) -> None:
    first = await add(repository)
    await claim(repository, first.id)
    done = await repository.finish(first.id, 1, {"a": 1}, MODEL)
    assert await add(repository, sha256=first.sha256) == replace(done, duplicate=True)


async def test_the_same_image_again_is_no_duplicate(repository: ImageRepository) -> None:
    """Whoever repeats it did not hear the answer: the bytes stored under this id are not superfluous."""
    image = await add(repository)
    claimed = await claim(repository, image.id)
    assert await repository.add(image) == claimed
    with pytest.raises(WrongState):
        await repository.add(replace(image, sha256="ab" * 32))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
async def test_what_json_does_not_have_is_refused(repository: ImageRepository, value: Any) -> None:
    image = await add(repository)
    with pytest.raises(InvalidRequest):
        await add(repository, metadata={"value": value})
    with pytest.raises(InvalidRequest):
        await repository.update(image.id, metadata={"value": value})
    assert await repository.get(image.id) == image


async def test_of_twenty_uploads_of_the_same_bytes_one_wins(repository: ImageRepository) -> None:
    images = await asyncio.gather(*(add(repository, sha256="ab" * 32) for _ in range(20)))
    assert sum(not image.duplicate for image in images) == 1
    assert len({image.id for image in images}) == 1
    assert sum((await repository.counts()).values()) == 1


async def test_missing_images(repository: ImageRepository) -> None:
    missing = new_image_id()
    assert await repository.find("default", "ab" * 32) is None
    for call in (
        repository.get(missing),
        repository.update(missing, tags=[]),
        repository.add_tag(missing, "a"),
        repository.failures(missing),
        repository.retry(missing),
        repository.entomb(missing),
    ):
        with pytest.raises(ImageNotFound, match=str(missing)):
            await call
    assert list(await repository.claim([missing], "one", LONG, "embed")) == []
    assert await repository.renew("one", [missing], LONG) == set()
    assert list(await repository.mark_pending([missing])) == []


async def test_get_many_gives_those_that_exist(repository: ImageRepository) -> None:
    first, second, third = await add_many(repository, 3)
    await repository.entomb(third)
    found = await repository.get_many([second, new_image_id(), first, third, first])
    assert set(found) == {first, second}
    assert found[first] == await repository.get(first)
    assert len(await repository.get_many([new_image_id() for _ in range(1000)] + [first])) == 1


async def test_nothing_asked_nothing_done(repository: ImageRepository) -> None:
    assert await repository.get_many([]) == {}
    assert list(await repository.mark_pending([])) == []
    assert list(await repository.claim([], "one", LONG, "embed")) == []
    assert await repository.renew("one", [], LONG) == set()
    assert list(await repository.list(ImageFilter(), 0)) == list(await repository.due(0)) == []


async def test_list_is_newest_first_and_goes_on_at_a_cursor(repository: ImageRepository) -> None:
    image_ids = await add_many(repository, 7)
    seen: list[UUID] = []
    while page := await repository.list(ImageFilter(), 3, seen[-1] if seen else None):
        assert len(page) <= 3
        seen += [image.id for image in page]
    assert seen == image_ids[::-1]


async def test_list_filters(repository: ImageRepository) -> None:
    async def listed(where: ImageFilter) -> set[UUID]:
        return {image.id for image in await repository.list(where, 100)}

    cat = await add(repository, tags=["cat", "red"])
    both = await add(repository, tags=["red", "dog", "cat"])
    other = await add(repository, tags=["cat"], collection="other")
    plain = await add(repository)
    await repository.mark_pending([both.id])
    assert await listed(ImageFilter()) == {cat.id, both.id, other.id, plain.id}
    assert await listed(ImageFilter(collection="default")) == {cat.id, both.id, plain.id}
    assert await listed(ImageFilter(collection="DEFAULT")) == set()
    assert await listed(ImageFilter(state=ImageState.PENDING)) == {both.id}
    assert await listed(ImageFilter(tags=["cat"])) == {cat.id, both.id, other.id}
    assert await listed(ImageFilter(tags=["cat", "red"])) == {cat.id, both.id}
    assert await listed(ImageFilter(tags=["cat", "red", "dog"])) == {both.id}
    assert await listed(ImageFilter(tags=["ca", "red"])) == await listed(ImageFilter(tags=["Cat"])) == set()
    assert await listed(ImageFilter("other", ImageState.CREATED, ["cat"])) == {other.id}
    (first,) = await repository.list(ImageFilter(tags=["cat"]), 1)
    assert first.id == max(cat.id, both.id, other.id)


async def test_list_filters_by_any_and_by_no_tag(repository: ImageRepository) -> None:
    async def listed(where: ImageFilter) -> set[UUID]:
        return {image.id for image in await repository.list(where, 100)}

    red = await add(repository, tags=["red"])
    both = await add(repository, tags=["red", "old"])
    old = await add(repository, tags=["old", "new"])
    plain = await add(repository)
    assert await listed(ImageFilter(any_tags=["red", "new"])) == {red.id, both.id, old.id}
    assert await listed(ImageFilter(any_tags=["blue"])) == set()
    assert await listed(ImageFilter(no_tags=["old", "blue"])) == {red.id, plain.id}
    assert await listed(ImageFilter(tags=["red"], any_tags=["old", "new"], no_tags=["blue"])) == {both.id}
    assert await listed(ImageFilter(tags=["red"], no_tags=["red"])) == set()
    many = [str(number) for number in range(99)]
    assert await listed(ImageFilter(any_tags=[*many, "new"], no_tags=many)) == {old.id}
    await repository.update(both.id, tags=["new"])
    assert await listed(ImageFilter(no_tags=["old"])) == {red.id, both.id, plain.id}


async def test_list_filters_by_the_time_of_creation(repository: ImageRepository) -> None:
    async def listed(start: datetime | None, end: datetime | None, limit: int = 100) -> list[UUID]:
        where = ImageFilter(created_from=start, created_to=end)
        return [image.id for image in await repository.list(where, limit)]

    noon, step = datetime(2026, 1, 31, 12, tzinfo=UTC), timedelta(microseconds=1)
    times = [noon - timedelta(days=40), noon - step, noon, noon + step, noon + timedelta(days=40)]
    ids = [UUID(int=least_id_at(time).int + n) for n, time in enumerate(times)]
    ids[3] = UUID(int=least_id_at(noon, timedelta(days=-7)).int + 3)  # announced a week before it was stored
    for image_id, time in zip(ids, times, strict=True):
        await add(repository, id=image_id, created_at=time, updated_at=time)
    newest_first = sorted(ids, reverse=True)
    assert await listed(None, None) == newest_first
    assert await listed(noon, None) == [ids[4], ids[2], ids[3]]
    assert await listed(None, noon) == [ids[1], ids[0]]
    assert await listed(noon, noon + step) == [ids[2]]
    assert await listed(noon - step, noon + timedelta(days=1), 2) == [ids[2], ids[1]]
    assert await listed((noon + step).astimezone(timezone(timedelta(hours=9))), None) == [ids[4], ids[3]]
    least, most = (moment.replace(tzinfo=UTC) for moment in (datetime.min, datetime.max))
    assert await listed(least, most) == newest_first
    assert await listed(most, None) == await listed(None, least) == []


async def test_collections_are_those_that_have_images(repository: ImageRepository) -> None:
    assert list(await repository.collections(10)) == []
    for name in ("b", "a", "Z", "b", "c-1", "b"):
        await add(repository, collection=name)
    gone = await add(repository, collection="gone")
    await repository.entomb(gone.id)
    assert sorted(await repository.collections(10)) == ["Z", "a", "b", "c-1"]
    assert len(await repository.collections(2)) == 2


async def test_counts_has_every_state(repository: ImageRepository) -> None:
    assert await repository.counts() == dict.fromkeys(ImageState, 0)
    image_ids = await add_many(repository, 6)
    await repository.mark_pending(image_ids[1:])
    await repository.claim(image_ids[2:], "one", LONG, "embed")
    await repository.advance(image_ids[3], 1, "index", {})
    await repository.finish(image_ids[4], 1, {}, MODEL)
    await repository.fail(image_ids[5], 1, BROKEN, None)
    assert await repository.counts() == dict.fromkeys(ImageState, 1)
    await repository.entomb(image_ids[4])
    assert await repository.counts() == {**dict.fromkeys(ImageState, 1), ImageState.DONE: 0}


async def test_update_replaces_what_is_given(repository: ImageRepository) -> None:
    image = await add(repository, tags=["a", "b"], metadata={"x": 1, "y": 2})
    assert (await repository.update(image.id, tags=["b", "ü"])).metadata == {"x": 1, "y": 2}
    changed = await repository.update(image.id, metadata={"z": None})
    assert (list(changed.tags), changed.metadata) == (["b", "ü"], {"z": None})
    assert await repository.get(image.id) == changed
    assert await repository.list(ImageFilter(tags=["ü", "b"]), 10) == [changed]
    assert list(await repository.list(ImageFilter(tags=["a"]), 10)) == []
    assert list((await repository.update(image.id, tags=[])).tags) == []
    assert list(await repository.list(ImageFilter(tags=["b"]), 10)) == []


async def with_tag(repository: ImageRepository, tag: str) -> list[UUID]:
    return [image.id for image in await repository.list(ImageFilter(tags=[tag]), 1000)]


async def test_a_tag_is_added_once_behind_the_others(repository: ImageRepository) -> None:
    image = await add(repository, tags=["b", "ü"])
    for _ in range(2):
        tagged = await repository.add_tag(image.id, 'a "{}" \\')
        assert list(tagged.tags) == ["b", "ü", 'a "{}" \\']
    assert tagged == await repository.get(image.id)
    assert tagged.updated_at > image.updated_at
    assert await with_tag(repository, 'a "{}" \\') == [image.id]


async def test_of_tags_that_are_added_at_once_there_are_no_more_than_an_image_can_have(
    repository: ImageRepository,
) -> None:
    image = await add(repository, tags=[f"{number}" for number in range(MOST_TAGS - 3)])
    new = [f"new {number}" for number in range(8)]
    answers = await asyncio.gather(*(repository.add_tag(image.id, tag) for tag in new))
    tags = list((await repository.get(image.id)).tags)
    assert (len(tags), tags[: MOST_TAGS - 3], len({*tags})) == (MOST_TAGS, list(image.tags), MOST_TAGS)
    for tag, answer in zip(new, answers, strict=True):
        assert (tag in answer.tags, await with_tag(repository, tag)) == (tag in tags, [image.id] * (tag in tags))


async def test_a_tag_that_is_added_while_others_are_replaced_undoes_no_change(repository: ImageRepository) -> None:
    for number in range(10):
        image = await add(repository, tags=["old"])
        changes = [repository.update(image.id, tags=[f"{number} {n}"], metadata={"n": n}) for n in range(4)]
        changes.insert(number % 5, repository.add_tag(image.id, "copy"))
        await asyncio.gather(*changes)
        changed = await repository.get(image.id)
        replaced = f"{number} {changed.metadata['n']}"
        assert list(changed.tags) in ([replaced], [replaced, "copy"])
        assert (image.id in await with_tag(repository, "copy")) == ("copy" in changed.tags)
        assert await with_tag(repository, replaced) == [image.id]


async def test_update_and_the_running_job_leave_each_other_alone(repository: ImageRepository) -> None:
    image = await add(repository)
    await claim(repository, image.id)
    await repository.update(image.id, tags=["a"], metadata={"b": 1})
    await repository.finish(image.id, 1, {"c": 2}, MODEL)
    image = await repository.get(image.id)
    assert (list(image.tags), image.metadata, image.features) == (["a"], {"b": 1}, {"c": 2})


# the life of a job


async def test_mark_pending_changes_only_what_is_created(repository: ImageRepository) -> None:
    created, pending, running, done = await add_many(repository, 4)
    await repository.mark_pending([pending])
    await claim(repository, running)
    await claim(repository, done)
    await repository.finish(done, 1, {}, MODEL)
    (changed,) = await repository.mark_pending([created, pending, running, done])
    assert (changed.id, changed.state) == (created, ImageState.PENDING)
    states = [(await repository.get(image_id)).state for image_id in (created, pending, running, done)]
    assert states == [ImageState.PENDING, ImageState.PENDING, ImageState.EMBEDDING, ImageState.DONE]


@pytest.mark.parametrize(
    ("stage", "state"),
    [("embed", ImageState.EMBEDDING), ("index", ImageState.INDEXING), ("thumbnail", ImageState.PENDING)],
)
async def test_a_claim_counts_and_shows_its_stage(repository: ImageRepository, stage: str, state: ImageState) -> None:
    image = await add(repository)
    claimed = await claim(repository, image.id, stage=stage)
    assert (claimed.state, claimed.stage, claimed.attempts) == (state, stage, 1)
    assert await repository.get(image.id) == claimed
    assert await repository.failures(image.id) == 1


async def test_only_unfinished_images_that_are_due_are_claimed(repository: ImageRepository) -> None:
    created, done, error, later, leased, deleted = await add_many(repository, 6)
    await repository.claim([done, error, later, leased], "one", LONG, "embed")
    await repository.finish(done, 1, {}, MODEL)
    await repository.fail(error, 1, BROKEN, None)
    await repository.fail(later, 1, BROKEN, datetime.now(UTC) + timedelta(hours=1))
    await repository.entomb(deleted)
    image_ids = [deleted, leased, later, error, done, created, created]
    assert [image.id for image in await repository.claim(image_ids, "two", LONG, "embed")] == [created]
    assert (await repository.get(created)).attempts == 1


async def test_of_twenty_racers_one_has_the_image(repository: ImageRepository) -> None:
    image_ids = await add_many(repository, 3)
    claims = await asyncio.gather(*(repository.claim(image_ids, f"{n}", LONG, "embed") for n in range(20)))
    assert sorted(image.id for claimed in claims for image in claimed) == image_ids
    for image_id in image_ids:
        assert (await repository.get(image_id)).attempts == 1


async def test_an_expired_lease_goes_to_the_next_and_fences_the_first(repository: ImageRepository) -> None:
    image = await add(repository)
    await claim(repository, image.id, "one", SHORT)
    (second,) = await until(lambda: repository.claim([image.id], "two", LONG, "embed", lost=True))
    assert second.attempts == 2
    assert await repository.failures(image.id) == 2
    await all_lost(repository, image.id, 1)
    assert await repository.get(image.id) == second
    assert await repository.renew("one", [image.id], LONG) == set()
    assert (await repository.finish(image.id, 2, {}, MODEL)).state is ImageState.DONE


async def all_lost(repository: ImageRepository, image_id: UUID, attempt: int) -> None:
    for call in (
        repository.advance(image_id, attempt, "index", {"late": True}),
        repository.finish(image_id, attempt, {"late": True}, MODEL),
        repository.fail(image_id, attempt, BROKEN, None),
        repository.fail(image_id, attempt, BROKEN, datetime.now(UTC), counts=False),
    ):
        with pytest.raises(LeaseLost, match=str(image_id)):
            await call


async def test_an_attempt_that_has_ended_is_lost(repository: ImageRepository) -> None:
    finished, failed, again, released, deleted, purged = image_ids = await add_many(repository, 6)
    await repository.claim(image_ids, "one", LONG, "embed")
    await repository.finish(finished, 1, {}, MODEL)
    await repository.fail(failed, 1, BROKEN, None)
    await repository.fail(again, 1, BROKEN, datetime.now(UTC))
    await repository.entomb(deleted)
    await repository.entomb(purged)
    await repository.purge(purged)
    before = await repository.get_many(image_ids)
    for image_id in (finished, failed, again, deleted, purged):
        await all_lost(repository, image_id, 1)
    assert await repository.get_many(image_ids) == before
    assert await repository.renew("one", image_ids, LONG) == {released}
    await repository.release("one")
    await all_lost(repository, released, 1)
    assert await repository.failures(released) == 0


async def test_renew_extends_and_tells_what_is_still_held(repository: ImageRepository) -> None:
    mine, others = await add_many(repository, 2)
    await claim(repository, mine, "one", SHORT)
    await claim(repository, others, "two")
    await until_lost(repository, mine)
    # It has run out, but nobody has taken it: a heartbeat that comes late loses nothing.
    assert await repository.renew("one", [mine, others], LONG) == {mine}
    assert list(await repository.lost(10)) == []
    assert list(await repository.claim([mine], "two", LONG, "embed", lost=True)) == []
    await repository.advance(mine, 1, "index", {})


async def test_advance_shows_the_stage_and_what_was_found_before_it(repository: ImageRepository) -> None:
    image = await add(repository)
    await claim(repository, image.id)
    moderated = await repository.advance(image.id, 1, "moderation", {"hue": [0.5, "ü", None]})
    assert (moderated.state, moderated.stage) == (ImageState.EMBEDDING, "moderation")
    assert moderated.features == {"hue": [0.5, "ü", None]}
    indexed = await repository.advance(image.id, 1, "index", {"moderation": {"safe": True}})
    assert (indexed.state, indexed.stage) == (ImageState.INDEXING, "index")
    assert indexed.features == {"moderation": {"safe": True}}
    assert await repository.get(image.id) == indexed


@pytest.mark.parametrize("embedding", [MODEL, None])
async def test_finish(repository: ImageRepository, embedding: EmbeddingInfo | None) -> None:
    image = await add(repository)
    await claim(repository, image.id)
    await repository.fail(image.id, 1, BROKEN, datetime.now(UTC))
    await claim(repository, image.id)
    features = {"moderation": {"safe": True, "why": ["ü", None, 0.5]}}
    done = await repository.finish(image.id, 2, features, embedding)
    assert (done.state, done.stage, done.error, done.attempts) == (ImageState.DONE, None, None, 2)
    assert (done.features, done.embedding, done.searchable) == (features, embedding, embedding is not None)
    assert await repository.get(image.id) == done
    assert list(await repository.due(10)) == []
    assert await repository.end_leases() == 0


async def test_fail_with_a_time_waits_for_it(repository: ImageRepository) -> None:
    soon, later = await add_many(repository, 2)
    await repository.claim([soon, later], "one", LONG, "embed")
    zone = timezone(timedelta(hours=5, minutes=30))
    await repository.fail(later, 1, BROKEN, (datetime.now(UTC) + timedelta(hours=1)).astimezone(zone))
    retry_at = datetime.now(UTC) + timedelta(seconds=0.1)
    failed = await repository.fail(soon, 1, BROKEN, retry_at.astimezone(zone))
    assert (failed.state, failed.error, failed.attempts) == (ImageState.PENDING, BROKEN, 1)
    assert await repository.get(soon) == failed
    await until_due(repository, soon)
    assert datetime.now(UTC) >= retry_at
    assert list(await repository.due(10)) == [Bell(soon, 1)]
    assert list(await repository.claim([later], "two", LONG, "embed")) == []
    assert (await claim(repository, soon, "two")).attempts == 2


async def test_fail_without_a_time_rests_in_error(repository: ImageRepository) -> None:
    image = await add(repository)
    failed = await to_error(repository, image.id)
    assert (failed.state, failed.stage, failed.error) == (ImageState.ERROR, "embed", BROKEN)
    assert await repository.get(image.id) == failed
    assert list(await repository.due(10)) == []
    assert list(await repository.bury(1)) == []


async def test_the_budget(repository: ImageRepository) -> None:
    image = await add(repository)
    assert await repository.failures(image.id) == 0
    for used, counts in enumerate((True, True, False), 1):
        attempt = (await claim(repository, image.id)).attempts
        assert (attempt, await repository.failures(image.id)) == (used, used)
        await repository.fail(image.id, attempt, BROKEN, datetime.now(UTC), counts)
    assert await repository.failures(image.id) == 2
    assert (await repository.get(image.id)).attempts == 3


async def test_release_hands_back_the_claims_of_one_owner(repository: ImageRepository) -> None:
    mine, mine_expired, theirs, finished = await add_many(repository, 4)
    await repository.claim([mine, finished], "one", LONG, "embed")
    await claim(repository, mine_expired, "one", SHORT)
    await claim(repository, theirs, "two")
    await repository.finish(finished, 1, {}, MODEL)
    await until_lost(repository, mine_expired)
    assert set(await repository.release("one")) == {mine, mine_expired}
    assert list(await repository.release("one")) == []
    released = await repository.get(mine)
    assert (released.state, released.stage, released.attempts) == (ImageState.PENDING, None, 1)
    assert await repository.failures(mine) == 0
    assert await repository.failures(theirs) == 1
    assert set(await due(repository)) == {mine, mine_expired}
    assert (await claim(repository, mine, "two")).attempts == 2


async def test_the_claims_of_dead_owners_are_lost_at_once(repository: ImageRepository) -> None:
    first, second, never, waits, deleted = await add_many(repository, 5)
    await claim(repository, first, "one", stage="index")
    await claim(repository, second, "two")
    await claim(repository, waits)
    await repository.fail(waits, 1, BROKEN, datetime.now(UTC) + timedelta(hours=1))
    await claim(repository, deleted)
    await repository.entomb(deleted)
    assert await repository.end_leases() == 2
    assert set(await repository.lost(10)) == {first, second}
    assert await due(repository) == [never]
    assert [await repository.failures(image_id) for image_id in (first, second, never)] == [1, 1, 0]
    assert (await repository.get(first)).stage == "index"  # where it died
    assert [image.id for image in await repository.tombstones(10)] == [deleted]
    assert (await claim(repository, first, "three", lost=True)).attempts == 2
    await all_lost(repository, first, 1)


async def test_what_was_lost_is_claimed_only_on_purpose(repository: ImageRepository) -> None:
    """It may be what killed its process: the next one takes it by itself."""
    fresh, lost = await add_many(repository, 2)
    await claim(repository, lost, "dead", SHORT)
    await until_lost(repository, lost)
    assert await due(repository) == [fresh]
    assert [image.id for image in await repository.claim([fresh, lost], "one", LONG, "embed")] == [fresh]
    assert list(await repository.lost(10)) == [lost]
    assert list(await repository.claim([fresh], "two", LONG, "embed", lost=True)) == []
    assert (await claim(repository, lost, "two", lost=True)).attempts == 2
    assert list(await repository.lost(10)) == []


async def test_of_twenty_racers_one_has_what_was_lost(repository: ImageRepository) -> None:
    image_ids = await add_many(repository, 3)
    await repository.claim(image_ids, "dead", LONG, "embed")
    await repository.end_leases()
    claims = await asyncio.gather(*(repository.claim(image_ids, f"{n}", LONG, "embed", lost=True) for n in range(20)))
    assert sorted(image.id for claimed in claims for image in claimed) == image_ids
    assert [(await repository.get(image_id)).attempts for image_id in image_ids] == [2, 2, 2]


async def test_lost_is_oldest_first_up_to_a_limit(repository: ImageRepository) -> None:
    image_ids = await add_many(repository, 3)
    for seconds, image_id in zip((0.03, 0.02, 0.01), image_ids, strict=True):
        await claim(repository, image_id, seconds=seconds)

    async def all_of_them() -> bool:
        return len(await repository.lost(10)) == 3

    await until(all_of_them)
    assert list(await repository.lost(2)) == list(await repository.lost(10))[:2]
    await repository.entomb(image_ids[0])
    assert set(await repository.lost(10)) == set(image_ids[1:])


async def test_due_is_oldest_first_up_to_a_limit(repository: ImageRepository) -> None:
    image_ids = await add_many(repository, 5)
    await repository.mark_pending(image_ids[::2])
    assert await due(repository, 10) == image_ids
    assert await due(repository, 2) == image_ids[:2]
    await claim(repository, image_ids[0])
    await repository.entomb(image_ids[1])
    await claim(repository, image_ids[2])
    await repository.finish(image_ids[2], 1, {}, MODEL)
    assert await due(repository, 10) == image_ids[3:]


async def test_bury_what_was_lost_in_its_last_attempt(repository: ImageRepository) -> None:
    lost, alive, has_more, deleted = await add_many(repository, 4)
    for image_id in (lost, alive, deleted):
        attempt = (await claim(repository, image_id)).attempts
        await repository.fail(image_id, attempt, BROKEN, datetime.now(UTC))
    await repository.claim([lost, has_more, deleted], "one", SHORT, "index")
    await claim(repository, alive)
    await repository.entomb(deleted)
    await until_lost(repository, lost)
    (buried,) = await until(lambda: repository.bury(2))
    assert buried.error is not None
    assert (buried.id, buried.state) == (lost, ImageState.ERROR)
    assert (buried.error.type, buried.error.stage, buried.error.attempts) == ("worker-lost", "index", 2)
    assert await repository.get(lost) == buried
    assert list(await repository.bury(2)) == []
    await all_lost(repository, lost, 2)
    await until_lost(repository, has_more)
    assert list(await repository.lost(10)) == [has_more]


async def test_bury_what_killed_its_process_in_every_attempt(repository: ImageRepository) -> None:
    """A single process ends all leases when it starts: the image that kills it must not go on for ever."""
    image = await add(repository)
    for lost in (False, True):
        assert list(await repository.bury(2)) == []
        await claim(repository, image.id, lost=lost)
        assert await repository.end_leases() == 1
    (buried,) = await repository.bury(2)
    assert (buried.id, buried.state) == (image.id, ImageState.ERROR)
    assert list(await repository.due(10)) == list(await repository.lost(10)) == []


async def test_bury_leaves_those_that_wait_for_their_next_attempt(repository: ImageRepository) -> None:
    """Their budget may have been larger when they failed."""
    image = await add(repository)
    await claim(repository, image.id)
    await repository.fail(image.id, 1, BROKEN, datetime.now(UTC))
    await until_due(repository, image.id)
    assert list(await repository.bury(1)) == []


async def test_of_ten_processes_that_bury_one_does(repository: ImageRepository) -> None:
    image_ids = await add_many(repository, 3)
    await repository.claim(image_ids, "dead", LONG, "embed")
    await repository.end_leases()
    buried = await asyncio.gather(*(repository.bury(1) for _ in range(10)))
    assert sorted(image.id for images in buried for image in images) == image_ids


async def test_retry_starts_anew_and_only_from_error(repository: ImageRepository) -> None:
    created, failed, done = await add_many(repository, 3)
    await to_error(repository, failed)
    await claim(repository, done)
    await repository.finish(done, 1, {}, MODEL)
    for image_id in (created, done):
        with pytest.raises(WrongState):
            await repository.retry(image_id)
    retried = await repository.retry(failed)
    assert (retried.state, retried.attempts) == (ImageState.PENDING, 1)
    assert await repository.failures(failed) == 0
    assert Bell(failed, 1) in await repository.due(10)
    with pytest.raises(WrongState):
        await repository.retry(failed)
    assert (await claim(repository, failed)).attempts == 2
    assert await repository.failures(failed) == 1


# uploads straight to the object store


def new_reservation(**changes: Any) -> Reservation:
    reservation = Reservation(
        id=new_image_id(),
        collection="default",
        sha256="ab" * 32,
        filename="Übung 'n' \"猫\".jpg",
        content_type="image/jpeg",
        bytes=2**40,
        tags=["it's", "🐈"],
        metadata={"nested": [1, 2.5, None, {"k'ey\"": "üä\n\t"}]},
        expires_at=datetime.now(UTC) + timedelta(hours=1),
    )
    return replace(reservation, **changes)


async def test_a_reservation_comes_back_as_it_went_in(repository: ImageRepository) -> None:
    reservation, same_bytes = new_reservation(), new_reservation()
    await repository.reserve(reservation)
    await repository.reserve(reservation)
    await repository.reserve(same_bytes)
    assert await repository.reservation(reservation.id) == reservation
    await repository.unreserve(reservation.id)
    await repository.unreserve(reservation.id)
    with pytest.raises(ImageNotFound, match=str(reservation.id)):
        await repository.reservation(reservation.id)
    assert await repository.reservation(same_bytes.id) == same_bytes


async def test_a_reservation_remembers_the_image_that_came_of_it(repository: ImageRepository) -> None:
    reservation, other = new_reservation(), new_reservation()
    await repository.reserve(reservation)
    await repository.reserve(other)
    came_of_it = new_image_id()
    await repository.mark_confirmed(reservation.id, came_of_it)
    await repository.mark_confirmed(new_image_id(), came_of_it)
    assert await repository.reservation(reservation.id) == replace(reservation, image=came_of_it)
    assert await repository.reservation(other.id) == other


async def test_a_reservation_is_no_image(repository: ImageRepository) -> None:
    reservation = new_reservation()
    await repository.reserve(reservation)
    assert await repository.find(reservation.collection, reservation.sha256) is None
    with pytest.raises(ImageNotFound):
        await repository.get(reservation.id)
    assert (await add(repository, id=reservation.id, sha256=reservation.sha256)).id == reservation.id
    assert await repository.reservation(reservation.id) == reservation


async def test_expired_reservations_are_oldest_first_up_to_a_limit(repository: ImageRepository) -> None:
    zone = timezone(timedelta(hours=-7))
    reservations = [
        new_reservation(expires_at=(datetime.now(UTC) + timedelta(minutes=minutes)).astimezone(zone))
        for minutes in (-1, -3, 1, -2)
    ]
    for reservation in reservations:
        await repository.reserve(reservation)
    oldest_first = [reservations[index].id for index in (1, 3, 0)]
    assert list(await repository.expired_reservations(10)) == oldest_first
    assert list(await repository.expired_reservations(2)) == oldest_first[:2]
    assert await repository.reservation(oldest_first[0]) == reservations[1]  # until it is swept


# delete


async def test_entomb_hides_the_image_and_fences_its_job(repository: ImageRepository) -> None:
    image = await add(repository, tags=["cat"])
    await claim(repository, image.id, "one")
    assert (await repository.entomb(image.id)).id == image.id
    await all_lost(repository, image.id, 1)
    assert await repository.renew("one", [image.id], LONG) == set()
    assert await repository.get_many([image.id]) == {}
    assert await repository.find(image.collection, image.sha256) is None
    assert list(await repository.list(ImageFilter(tags=["cat"]), 10)) == []
    assert sum((await repository.counts()).values()) == 0
    assert list(await repository.due(10)) == list(await repository.mark_pending([image.id])) == []
    for call in (
        repository.get(image.id),
        repository.update(image.id, tags=["dog"]),
        repository.failures(image.id),
        repository.retry(image.id),
        repository.entomb(image.id),
    ):
        with pytest.raises(ImageNotFound):
            await call


async def test_entombed_bytes_can_be_uploaded_anew(repository: ImageRepository) -> None:
    image = await add(repository)
    for _ in range(3):
        await repository.entomb(image.id)
        again = await add(repository, sha256=image.sha256)
        assert not again.duplicate
        assert again.id != image.id
        image = again
    assert await repository.find(image.collection, image.sha256) == image
    assert len(await repository.tombstones(10)) == 3


async def test_tombstones_wait_for_the_lease(repository: ImageRepository) -> None:
    idle, running, released, expired, living = await add_many(repository, 5)
    await claim(repository, running, "one")
    await claim(repository, released, "two")
    for image_id in (idle, running, released):
        await repository.entomb(image_id)
    assert [image.id for image in await repository.tombstones(10)] == [idle]
    assert list(await repository.release("two")) == []  # its job has stopped, but a tombstone is not handed on
    assert {image.id for image in await repository.tombstones(10)} == {idle, released}
    assert len(await repository.tombstones(1)) == 1
    await claim(repository, expired, "one", SHORT)
    await repository.entomb(expired)

    async def third() -> bool:
        return {image.id for image in await repository.tombstones(10)} == {idle, released, expired}

    await until(third)
    assert (await repository.get(living)).id == living


async def test_purge_is_for_tombstones_and_may_be_repeated(repository: ImageRepository) -> None:
    deleted, living = await add_many(repository, 2, tags=["cat"])
    await repository.entomb(deleted)
    for image_id in (deleted, deleted, living, new_image_id()):
        await repository.purge(image_id)
    assert list(await repository.tombstones(10)) == []
    assert [image.id for image in await repository.list(ImageFilter(tags=["cat"]), 10)] == [living]


# the embedding cache


def new_vector() -> "np.ndarray[Any, np.dtype[np.float32]]":
    vector = np.random.default_rng().normal(size=1280).astype(np.float32)
    return vector / np.linalg.norm(vector)


async def test_the_cache_keeps_vectors_bit_by_bit(repository: ImageRepository) -> None:
    key, vector = CacheKey("ab" * 32, "ViT-B-32/laion2b_s34b_b79k@1", "2"), new_vector()
    assert await repository.cached_embedding(key) is None
    await repository.cache_embedding(key, vector)
    await repository.cache_embedding(key, new_vector())
    cached = await repository.cached_embedding(key)
    assert cached is not None
    assert cached.dtype == np.float32
    assert np.array_equal(cached, vector)
    for other in (key._replace(sha256="cd" * 32), key._replace(model="m@2"), key._replace(preprocessing="3")):
        assert await repository.cached_embedding(other) is None


async def test_what_many_keep_and_ask_at_once_is_each_ones_own(repository: ImageRepository) -> None:
    digests = [f"{number:064x}" for number in range(40)]
    kept = {CacheKey(digest, model, "1"): new_vector() for digest in digests for model in ("m@1", "m@2")}
    missing = [CacheKey(digest, "m@3", "1") for digest in digests]
    twice = next(iter(kept))
    await asyncio.gather(
        *(repository.cache_embedding(key, vector) for key, vector in kept.items()),
        *(repository.cache_embedding(key, vector) for key, vector in reversed(kept.items())),
    )
    asked = [*kept, *missing, twice, twice]
    found = await asyncio.gather(*(repository.cached_embedding(key) for key in asked))
    for key, vector in zip(asked, found, strict=True):
        assert vector is None if key in missing else np.array_equal(vector, kept[key])


async def test_the_cache_is_swept_when_no_image_has_the_bytes(repository: ImageRepository) -> None:
    first = await add(repository)
    second = await add(repository, sha256=first.sha256, collection="other")
    keys = [CacheKey(first.sha256, model, "1") for model in ("a@1", "b@1")]
    for key in keys:
        await repository.cache_embedding(key, new_vector())
    for image in (first, second):
        assert await repository.sweep_cache(0) == 0
        await repository.entomb(image.id)
        assert await repository.sweep_cache(0) == 0  # a tombstone still has its bytes
        await repository.purge(image.id)
    assert await repository.sweep_cache(LONG) == 0
    assert await repository.cached_embedding(keys[0]) is not None
    assert await repository.sweep_cache(0) == 2
    assert await repository.sweep_cache(0) == 0
    assert await repository.cached_embedding(keys[0]) is None


async def test_bytes_that_come_back_keep_their_embedding(repository: ImageRepository) -> None:
    image = await add(repository)
    key = CacheKey(image.sha256, "a@1", "1")
    await repository.cache_embedding(key, new_vector())
    await repository.entomb(image.id)
    again = await add(repository, sha256=image.sha256)
    await repository.purge(image.id)
    assert await repository.sweep_cache(0) == 0
    await repository.entomb(again.id)
    await repository.purge(again.id)
    third = await add(repository, sha256=image.sha256)
    assert await repository.sweep_cache(0) == 0
    assert await repository.cached_embedding(key) is not None
    assert not third.duplicate


async def test_the_embedding_of_bytes_that_were_deleted_meanwhile_is_swept(repository: ImageRepository) -> None:
    """A job caches its result although its image has gone, or a search caches that of no image."""
    key = CacheKey("ab" * 32, "a@1", "1")
    await repository.cache_embedding(key, new_vector())
    assert await repository.sweep_cache(LONG) == 0
    assert await repository.sweep_cache(0) == 1
    assert await repository.cached_embedding(key) is None


async def test_ping(repository: ImageRepository) -> None:
    await repository.ping()


@pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)
async def test_a_database_outlives_its_process(url: str) -> None:
    async with opened(url) as repository:
        image = await add(repository, tags=["cat"])
        claimed = await claim(repository, image.id)
    async with opened(url) as repository:
        assert await repository.get(image.id) == claimed
        assert await repository.end_leases() == 1


@pytest.mark.parametrize("state", [ImageState.DONE, ImageState.ERROR])
async def test_an_image_that_is_added_at_rest_stays_so(repository: ImageRepository, state: ImageState) -> None:
    image = await add(repository, state=state, attempts=3)
    assert list(await repository.due(10)) == []
    assert list(await repository.claim([image.id], "one", LONG, "embed")) == []
    assert await repository.get(image.id) == image
