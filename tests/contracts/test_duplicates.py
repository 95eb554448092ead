"""What every repository promises about groups of duplicates."""

import asyncio
from uuid import UUID, uuid4

import pytest

from imgsim.core.errors import GroupNotFound
from imgsim.core.models import CopyNote, DuplicateGroup, Match
from imgsim.core.ports import ImageRepository
from tests.contracts.test_image_repository import MODEL, add_many, claim, repository, template, url

__all__ = ["repository", "template", "url"]


async def done(repository: ImageRepository, count: int, **changes: object) -> list[UUID]:
    """Ids, ascending, of images that can be searched."""
    image_ids = await add_many(repository, count, **changes)
    await finish(repository, *image_ids)
    return image_ids


async def finish(repository: ImageRepository, *image_ids: UUID) -> None:
    for image_id in image_ids:
        await claim(repository, image_id)
        await repository.finish(image_id, 1, {}, MODEL)


def ids(groups: list[DuplicateGroup]) -> list[list[UUID]]:
    return [[image.id for image in group.images] for group in groups]


async def copies(repository: ImageRepository, **options: object) -> list[DuplicateGroup]:
    return list(await repository.copy_groups(100, **options))  # type: ignore[arg-type]


async def identical(repository: ImageRepository) -> list[DuplicateGroup]:
    return list(await repository.identical_groups(100))


async def test_copies_come_in_groups_that_join(repository: ImageRepository) -> None:
    a, b, c, d, e, f = await done(repository, 6)
    await repository.note_copies(b, [a])
    await repository.note_copies(e, [c, d])
    assert ids(await copies(repository)) == [[a, b], [c, d, e]]
    for _ in range(2):  # a stage may run twice
        await repository.note_copies(f, [b, e])
    (group,) = await copies(repository)
    assert (group.id, group.match, ids([group])) == (a, Match.COPY, [[a, b, c, d, e, f]])
    assert group.images[0] == await repository.get(a)


async def test_groups_come_in_pages_and_by_collection(repository: ImageRepository) -> None:
    there, here = await done(repository, 2, collection="there"), await done(repository, 4)
    await repository.note_copies(there[1], there[:1])
    await repository.note_copies(here[1], here[:1])
    await repository.note_copies(here[3], here[2:3])
    everything = await copies(repository)
    assert [group.id for group in everything] == sorted([there[0], here[0], here[2]])
    assert ids(await copies(repository, collection="there")) == [there]
    assert ids(await copies(repository, collection="nowhere")) == []
    first = list(await repository.copy_groups(2))
    rest = list(await repository.copy_groups(2, None, first[-1].id))
    assert (len(first), first + rest) == (2, everything)


async def test_what_is_gone_or_not_searchable_is_in_no_group(repository: ImageRepository) -> None:
    a, b, c = await done(repository, 3)
    unfinished, rejected = await add_many(repository, 2)
    await claim(repository, rejected)
    await repository.finish(rejected, 1, {}, None)
    await repository.note_copies(a, [b, c, unfinished, rejected, uuid4()])
    await repository.note_copies(a, [])
    assert ids(await copies(repository)) == [[a, b, c]]
    await repository.entomb(b)
    assert ids(await copies(repository)) == [[a, c]]
    await repository.purge(b)
    await repository.entomb(a)
    assert ids(await copies(repository)) == []
    await repository.note_copies(c, [a])  # its vector was still there
    await repository.purge(a)
    assert ids(await copies(repository)) == []


async def test_dismissed_images_never_meet_again_but_have_other_copies(repository: ImageRepository) -> None:
    a, b, c, d = await done(repository, 4)
    await repository.note_copies(b, [a])
    await repository.dismiss_group(a)
    assert ids(await copies(repository)) == []
    await repository.note_copies(b, [a])
    assert ids(await copies(repository)) == []
    await repository.note_copies(c, [b])
    await repository.note_copies(d, [a])
    assert ids(await copies(repository)) == [[a, d], [b, c]]
    await repository.note_copies(d, [c])  # would join them by two steps
    assert ids(await copies(repository)) == [[a, d], [b, c]]
    await repository.dismiss_group(b)
    assert ids(await copies(repository)) == [[a, d]]


async def test_what_is_no_group_cannot_be_dismissed(repository: ImageRepository) -> None:
    a, b = await done(repository, 2)
    await repository.note_copies(b, [a])
    await repository.dismiss_group(a)
    for group_id in (a, b, uuid4()):
        with pytest.raises(GroupNotFound, match=str(group_id)):
            await repository.dismiss_group(group_id)


async def test_images_that_were_not_named_stay_with_the_oldest_that_was(repository: ImageRepository) -> None:
    a, b, c, d, unfinished = await add_many(repository, 5)
    await finish(repository, a, b, c, d)
    await repository.note_copies(b, [a])
    await repository.note_copies(c, [b])
    await repository.note_copies(d, [c, unfinished])
    await repository.dismiss_group(a, [c, b, d, d, uuid4()])
    assert ids(await copies(repository)) == [[a, b]]
    await repository.note_copies(c, [b])
    await repository.note_copies(d, [c])
    assert ids(await copies(repository)) == [[a, b]]
    await finish(repository, unfinished)
    assert ids(await copies(repository)) == [[a, b, unfinished]]
    await repository.dismiss_group(a, [a, b, unfinished])
    assert ids(await copies(repository)) == []


async def test_who_joins_a_group_that_is_dismissed_in_the_meantime_stays(repository: ImageRepository) -> None:
    a, b, c = await done(repository, 3)
    await repository.note_copies(b, [a])
    seen = ids(await copies(repository))[0]
    await repository.note_copies(c, [b])
    await repository.dismiss_group(a, seen)
    assert ids(await copies(repository)) == [[a, c]]
    with pytest.raises(GroupNotFound, match=str(a)):  # of those only a is in the group that has this id now
        await repository.dismiss_group(a, seen)
    assert ids(await copies(repository)) == [[a, c]]


async def test_two_dismissals_at_once_leave_nobody_alone(repository: ImageRepository) -> None:
    image_ids = await done(repository, 5)
    await repository.note_copies(image_ids[0], image_ids[1:])
    pairs = (image_ids[:2], image_ids[2:4])
    await asyncio.gather(*(repository.dismiss_group(image_ids[0], pair) for pair in pairs))
    assert ids(await copies(repository)) == [[image_ids[0], image_ids[2], image_ids[4]]]


async def test_fewer_than_two_that_are_there_cannot_be_dismissed(repository: ImageRepository) -> None:
    a, b, c, elsewhere = await done(repository, 4)
    await repository.note_copies(a, [b, c])
    await repository.entomb(b)
    for image_ids in ([a], [a, a], [a, b], [a, elsewhere], [uuid4(), uuid4()], []):
        with pytest.raises(GroupNotFound, match=str(a)):
            await repository.dismiss_group(a, image_ids)
    assert ids(await copies(repository)) == [[a, c]]


async def with_bytes(repository: ImageRepository, sha256: str, *collections: str) -> list[UUID]:
    """Ids, ascending."""
    image_ids = [(await done(repository, 1, sha256=sha256, collection=collection))[0] for collection in collections]
    return sorted(image_ids)


async def test_identical_bytes_in_several_collections_are_a_group(repository: ImageRepository) -> None:
    second = await with_bytes(repository, "bb" * 32, "one", "two", "three")
    first = await with_bytes(repository, "aa" * 32, "one", "two")
    await with_bytes(repository, "cc" * 32, "one")
    groups = await identical(repository)
    assert [group.match for group in groups] == [Match.IDENTICAL] * 2
    assert ids(groups) == [first, second]
    assert groups[0].id == UUID("aa" * 16)
    assert ids(list(await repository.identical_groups(1))) == [first]
    assert ids(list(await repository.identical_groups(1, "aa" * 32))) == [second]
    await repository.entomb(first[0])  # a page without groups is not the end
    assert ids(list(await repository.identical_groups(1))) == [second]
    await repository.purge(first[0])
    await repository.entomb(second[0])
    assert ids(await identical(repository)) == [second[1:]]


async def test_a_dismissed_group_of_identical_bytes_is_one_to_newcomers(repository: ImageRepository) -> None:
    a, b = await with_bytes(repository, "aa" * 32, "one", "two")
    (copy,) = await done(repository, 1, collection="one")
    await repository.note_copies(copy, [a])
    (group,) = await identical(repository)
    await repository.dismiss_group(group.id)
    assert ids(await identical(repository)) == []
    assert ids(await copies(repository)) == [sorted([a, copy])]  # ids of one millisecond are in no order
    (c,) = await with_bytes(repository, "aa" * 32, "three")
    (group,) = await identical(repository)
    assert c in {image.id for image in group.images}
    assert len(group.images) == 2
    await repository.entomb(a)
    assert {image.id for image in (await identical(repository))[0].images} == {b, c}


async def test_of_identical_images_only_the_named_are_told_apart(repository: ImageRepository) -> None:
    a, b, c, d = await with_bytes(repository, "aa" * 32, "one", "two", "three", "four")
    (group,) = await identical(repository)
    with pytest.raises(GroupNotFound, match=str(group.id)):
        await repository.dismiss_group(group.id, [a, uuid4()])
    await repository.dismiss_group(group.id, [b, c])
    assert ids(await identical(repository)) == [[a, b, d]]
    await repository.dismiss_group(group.id, [b, d])
    assert ids(await identical(repository)) == [[a, b]]
    await repository.entomb(b)
    assert ids(await identical(repository)) == [[a, c, d]]


async def test_who_was_told_apart_from_one_that_is_left_out_is_not_left_out(repository: ImageRepository) -> None:
    a, b, c, d = await with_bytes(repository, "aa" * 32, "one", "two", "three", "four")
    (group,) = await identical(repository)
    for pair in ([a, b], [b, c]):
        await repository.dismiss_group(group.id, pair)
    assert ids(await identical(repository)) == [[a, c, d]]
    await repository.dismiss_group(group.id, [a, c, d])
    assert ids(await identical(repository)) == []


async def test_groups_are_found_among_many_digests_that_are_none(repository: ImageRepository) -> None:
    digests = [f"{number:02x}" * 32 for number in range(12)]
    members = {sha256: await with_bytes(repository, sha256, "one", "two") for sha256 in digests}
    for sha256 in digests[:5]:
        await repository.dismiss_group(UUID(hex=sha256[:32]))
    for sha256 in digests[6:11]:
        await repository.entomb(members[sha256][1])
    assert ids(list(await repository.identical_groups(1))) == [members[digests[5]]]
    assert ids(list(await repository.identical_groups(1, digests[5]))) == [members[digests[11]]]
    assert ids(await identical(repository)) == [members[digests[5]], members[digests[11]]]


async def test_copies_that_are_noted_at_once_all_meet(repository: ImageRepository) -> None:
    image_ids = await done(repository, 12)
    pairs = zip(image_ids[1:], image_ids, strict=False)
    await asyncio.gather(*(repository.note_copies(one, [other]) for one, other in pairs))
    assert ids(await copies(repository)) == [image_ids]


async def test_a_group_tells_a_hundred_of_its_images(repository: ImageRepository) -> None:
    image_ids = await done(repository, 102)
    await repository.note_copies(image_ids[0], image_ids[1:])
    assert ids(await copies(repository)) == [image_ids[:100]]
    await repository.dismiss_group(image_ids[0])
    assert ids(await copies(repository)) == []


async def test_what_another_repository_knew_of_duplicates_can_be_kept(repository: ImageRepository) -> None:
    a, b, c, d, e = await done(repository, 5)
    assert await repository.copy_notes([a, b, c, d, e, uuid4()]) == []
    assert await repository.copy_notes([]) == []
    await repository.keep_copy_notes([])
    dismissal, other = uuid4(), uuid4()
    notes = [
        CopyNote(a, a, frozenset()),
        CopyNote(b, a, frozenset([dismissal, other])),
        CopyNote(c, None, frozenset([dismissal])),
    ]
    for _ in range(2):
        await repository.keep_copy_notes([*notes, CopyNote(uuid4(), a, frozenset([dismissal]))])
    assert set(await repository.copy_notes([a, b, c, d, e])) == set(notes)
    assert ids(await copies(repository)) == [[a, b]]
    await repository.note_copies(d, [b])
    await repository.note_copies(d, [c])  # which was dismissed together with b
    assert ids(await copies(repository)) == [[a, b, d]]
    await repository.keep_copy_notes([CopyNote(d, e, frozenset()), CopyNote(e, e, frozenset())])
    assert ids(await copies(repository)) == [[a, b], [d, e]]
    apart = frozenset([uuid4()])
    await repository.keep_copy_notes([CopyNote(d, None, apart), CopyNote(e, None, apart)])
    assert ids(await copies(repository)) == [[a, b]]
    await repository.note_copies(d, [a])  # no group holds two that were dismissed together, so it can grow
    assert ids(await copies(repository)) == [[a, b, d]]
    await repository.entomb(e)
    await repository.keep_copy_notes([CopyNote(e, a, frozenset())])
    await repository.purge(e)
    assert await repository.copy_notes([e]) == []
