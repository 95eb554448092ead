"""Groups of duplicates: copies in a table of their own, identical bytes by the images' digests."""

from collections.abc import Mapping, Sequence
from uuid import UUID, uuid4

from piccolo.querystring import QueryString

from imgsim.adapters.database.rows import image_of, uuid_of
from imgsim.adapters.database.session import Rows, Session
from imgsim.adapters.database.statements import places_of, select_images
from imgsim.core.errors import GroupNotFound
from imgsim.core.models import CopyNote, DuplicateGroup, ImageState, Match, identical_group_id

_MOST_IMAGES = 100
_SECONDS_TO_LOOK = 60.0


def _searchable(image: str = "image") -> str:
    """CASE keeps both engines from the index of the states, most of which are this one."""
    state = f"CASE WHEN {image}.deleted_at IS NULL THEN {image}.state END"
    return f"{state} = '{ImageState.DONE}' AND {image}.model IS NOT NULL"


_SEARCHABLE = _searchable()
_TOLD_APART = (
    "EXISTS (SELECT 1 FROM not_copies AS mine JOIN not_copies AS its ON its.dismissal = mine.dismissal "
    "WHERE mine.image = oldest.id AND its.image = other.id)"
)
_IS_GROUP = (
    # The oldest image with these bytes, and one that nobody has told apart from it. The cast keeps PostgreSQL from
    # reading images in the order of their ids until it meets these bytes.
    "(SELECT 1 FROM image AS oldest JOIN image AS other ON other.sha256 = oldest.sha256 AND other.id <> oldest.id "
    "WHERE oldest.id = (SELECT id FROM image AS one WHERE one.sha256 = image.sha256 "
    f"AND {_searchable('one')} ORDER BY CAST(id AS TEXT) LIMIT 1) "
    f"AND {_searchable('other')} AND NOT {_TOLD_APART} LIMIT 1) IS NOT NULL"
)


class PiccoloDuplicates:
    """The part of the repository that knows which images are duplicates."""

    _session: Session

    async def note_copies(self, image_id: UUID, copies: Sequence[UUID]) -> None:
        if not copies:
            return
        everyone = self._session.dialect.one_of([image_id, *copies])
        alone = QueryString(
            "INSERT INTO copy_member (image, copy_group, collection) SELECT id, id, collection FROM image "
            "WHERE id {} AND deleted_at IS NULL ON CONFLICT DO NOTHING",
            everyone,
        )
        joins = [self._join(image_id, other) for other in copies]
        await self._session.execute(*self._one_at_a_time(), alone, *joins)

    def _join(self, image_id: UUID, other: UUID) -> QueryString:
        """The groups of both into the one with the lower id; not where a dismissal has one image in each."""
        two = self._session.dialect.one_of([image_id, other])
        both = QueryString("SELECT copy_group FROM copy_member WHERE image {}", two)
        lower = QueryString("({} ORDER BY copy_group LIMIT 1)", both)
        return QueryString(
            # Only what moves is written: a group may have thousands of members, and each new copy joins it.
            "UPDATE copy_member SET copy_group = {} WHERE copy_group IN ({}) AND copy_group > {} "
            "AND (SELECT COUNT(*) FROM copy_member WHERE image {}) = 2 AND NOT EXISTS ("
            "SELECT 1 FROM copy_member AS member JOIN not_copies ON not_copies.image = member.image "
            "WHERE member.copy_group IN ({}) GROUP BY not_copies.dismissal HAVING COUNT(*) > 1)",
            lower,
            both,
            lower,
            two,
            both,
        )

    def _one_at_a_time(self) -> Sequence[QueryString]:
        """Two that join groups at once would each miss what the other does."""
        lock = self._session.dialect.lock_table
        return [QueryString(lock % "copy_member")] if lock else []

    async def copy_groups(
        self, limit: int, collection: str | None = None, after: UUID | None = None
    ) -> Sequence[DuplicateGroup]:
        found: list[DuplicateGroup] = []
        while len(found) < limit:
            group_ids = await self._copy_group_ids(limit, collection, after)
            if not group_ids:
                break
            found += await self._copy_groups(group_ids)
            after = group_ids[-1]
        return found[:limit]

    async def _copy_group_ids(self, limit: int, collection: str | None, after: UUID | None) -> Sequence[UUID]:
        conditions = [QueryString(_SEARCHABLE)]
        if collection is not None:
            conditions.append(QueryString("copy_member.collection = {}", collection))
        if after is not None:
            conditions.append(QueryString("copy_member.copy_group > {}", after))
        where = QueryString(" AND ".join("{}" for _ in conditions), *conditions)
        rows = await self._session.select(
            QueryString(
                "SELECT copy_group FROM copy_member JOIN image ON image.id = copy_member.image WHERE {} "
                "GROUP BY copy_group HAVING COUNT(*) > 1 ORDER BY copy_group LIMIT {}",
                where,
                limit,
            ),
            _SECONDS_TO_LOOK,
        )
        return [uuid_of(row["copy_group"]) for row in rows]

    async def _copy_groups(self, group_ids: Sequence[UUID]) -> Sequence[DuplicateGroup]:
        members = await self._members(group_ids)
        by_group: dict[UUID, list[UUID]] = {group_id: [] for group_id in group_ids}
        for row in members:
            by_group[uuid_of(row["copy_group"])].append(uuid_of(row["image"]))
        return await self._groups(Match.COPY, by_group)

    async def _members(self, group_ids: Sequence[UUID]) -> Rows:
        return await self._session.select(
            QueryString(
                "SELECT copy_group, image FROM (SELECT copy_group, copy_member.image AS image, ROW_NUMBER() OVER "
                "(PARTITION BY copy_group ORDER BY copy_member.image) AS place FROM copy_member "
                f"JOIN image ON image.id = copy_member.image WHERE copy_group {{}} AND {_SEARCHABLE}) AS numbered "
                f"WHERE place <= {_MOST_IMAGES} ORDER BY copy_group, image",
                self._session.dialect.one_of(group_ids),
            )
        )

    async def identical_groups(self, limit: int, after: str = "") -> Sequence[DuplicateGroup]:
        found: list[DuplicateGroup] = []
        while len(found) < limit:
            digests = await self._digests_of_groups(limit, after)
            found += await self._identical(digests) if digests else []
            if len(digests) < limit:
                break
            after = digests[-1]
        return found[:limit]

    async def _digests_of_groups(self, limit: int, after: str) -> Sequence[str]:
        """Which digests are repeated is read off their index; rows are read of these alone."""
        rows = await self._session.select(
            QueryString(
                f"SELECT sha256 FROM image WHERE sha256 > {{}} GROUP BY sha256 HAVING COUNT(*) > 1 AND {_IS_GROUP} "
                "ORDER BY sha256 LIMIT {}",
                after,
                limit,
            ),
            _SECONDS_TO_LOOK,
        )
        return [row["sha256"] for row in rows]

    async def _identical(self, digests: Sequence[str]) -> Sequence[DuplicateGroup]:
        rows = await self._session.select(
            QueryString(
                f"SELECT image.id, image.sha256, not_copies.dismissal FROM image LEFT JOIN not_copies "
                f"ON not_copies.image = image.id WHERE image.sha256 IN ({places_of(digests)}) AND {_SEARCHABLE} "
                "ORDER BY image.sha256, image.id",
                *digests,
            )
        )
        by_group: dict[UUID, list[UUID]] = {}
        taken: set[tuple[str, str]] = set()  # the dismissals that have an image in a group
        dismissals: dict[tuple[str, UUID], set[tuple[str, str]]] = {}
        for row in rows:
            own = dismissals.setdefault((row["sha256"], uuid_of(row["id"])), set())
            if row["dismissal"] is not None:
                own.add((row["sha256"], str(row["dismissal"])))
        for (sha256, image_id), own in dismissals.items():
            if not own & taken:
                by_group.setdefault(identical_group_id(sha256), []).append(image_id)
                taken |= own
        return await self._groups(Match.IDENTICAL, {key: ids[:_MOST_IMAGES] for key, ids in by_group.items()})

    async def _groups(self, match: Match, members: Mapping[UUID, Sequence[UUID]]) -> Sequence[DuplicateGroup]:
        """Those that still have two images when these are read."""
        image_ids = [image_id for ids in members.values() for image_id in ids]
        if not image_ids:
            return []
        rows = await self._session.select(select_images(self._session.dialect, image_ids))
        images = {image.id: image for image in map(image_of, rows)}
        groups = (
            DuplicateGroup(group_id, match, [images[image_id] for image_id in ids if image_id in images])
            for group_id, ids in members.items()
        )
        return [group for group in groups if len(group.images) > 1]

    async def dismiss_group(self, group_id: UUID, images: Sequence[UUID] | None = None) -> None:
        dismissal = uuid4()
        mark, leave = _mark(self._copies(group_id, images), dismissal), _leave(group_id, dismissal)
        marked = (await self._session.execute(*self._one_at_a_time(), mark, leave))[-2]
        if not marked:
            (marked,) = await self._session.execute(_mark(self._identical_images(group_id, images), dismissal))
        if not marked:
            raise GroupNotFound(f"No group {group_id} of duplicates has two of these images.")

    def _copies(self, group_id: UUID, images: Sequence[UUID] | None) -> QueryString:
        members = QueryString("SELECT image AS id FROM copy_member WHERE copy_group = {}", group_id)
        if images is None:
            return members
        some = self._session.dialect.one_of(images)
        return QueryString(f"SELECT id FROM image WHERE id {{}} AND {_SEARCHABLE} AND id IN ({{}})", some, members)

    def _identical_images(self, group_id: UUID, images: Sequence[UUID] | None) -> QueryString:
        members = QueryString(
            f"SELECT id FROM image WHERE sha256 >= {{}} AND sha256 <= {{}} AND {_SEARCHABLE}",
            group_id.hex + "0" * 32,
            group_id.hex + "f" * 32,
        )
        if images is None:
            return members
        return QueryString("{} AND id {}", members, self._session.dialect.one_of(images))

    async def copy_notes(self, image_ids: Sequence[UUID]) -> Sequence[CopyNote]:
        if not image_ids:
            return []
        them = self._session.dialect.one_of(image_ids)
        members = await self._session.select(
            QueryString("SELECT image, copy_group FROM copy_member WHERE image {}", them)
        )
        dismissed = await self._session.select(
            QueryString("SELECT image, dismissal FROM not_copies WHERE image {}", them)
        )
        groups = {uuid_of(row["image"]): uuid_of(row["copy_group"]) for row in members}
        dismissals: dict[UUID, set[UUID]] = {}
        for row in dismissed:
            dismissals.setdefault(uuid_of(row["image"]), set()).add(uuid_of(row["dismissal"]))
        return [
            CopyNote(image_id, groups.get(image_id), frozenset(dismissals.get(image_id, ())))
            for image_id in image_ids
            if image_id in groups or image_id in dismissals
        ]

    async def keep_copy_notes(self, notes: Sequence[CopyNote]) -> None:
        if not notes:
            return
        them = self._session.dialect.one_of([note.image_id for note in notes])
        rows = await self._session.select(
            QueryString("SELECT id, collection FROM image WHERE id {} AND deleted_at IS NULL", them)
        )
        collections = {uuid_of(row["id"]): row["collection"] for row in rows}
        kept = [note for note in notes if note.image_id in collections]
        member = (
            "INSERT INTO copy_member (image, copy_group, collection) VALUES ({}, {}, {}) "
            "ON CONFLICT (image) DO UPDATE SET copy_group = excluded.copy_group"
        )
        alone = "DELETE FROM copy_member WHERE image = {}"
        dismissed = "INSERT INTO not_copies (image, dismissal) VALUES ({}, {}) ON CONFLICT DO NOTHING"
        groups = [
            QueryString(member, note.image_id, note.group, collections[note.image_id])
            if note.group
            else QueryString(alone, note.image_id)
            for note in kept
        ]
        dismissals = [QueryString(dismissed, note.image_id, each) for note in kept for each in note.dismissals]
        if groups:
            await self._session.execute(*self._one_at_a_time(), *groups, *dismissals)


def _mark(members: QueryString, dismissal: UUID) -> QueryString:
    """Gives what it marks: nothing where that would be a single image."""
    return QueryString(
        # COALESCE, since PostgreSQL takes the type of a parameter from what stands beside it.
        "INSERT INTO not_copies (image, dismissal) SELECT id, COALESCE({}, id) FROM ({}) AS members "
        "WHERE (SELECT COUNT(*) FROM ({}) AS counted) > 1 RETURNING image",
        dismissal,
        members,
        members,
    )


def _leave(group_id: UUID, dismissal: UUID) -> QueryString:
    """What was marked leaves its group; the oldest stays with what was not."""
    marked = QueryString("SELECT image FROM not_copies WHERE dismissal = {}", dismissal)
    return QueryString(
        "DELETE FROM copy_member WHERE image IN ({}) AND (image > ({} ORDER BY image LIMIT 1) OR NOT EXISTS ("
        "SELECT 1 FROM copy_member AS other WHERE other.copy_group = {} AND other.image NOT IN ({})))",
        marked,
        marked,
        group_id,
        marked,
    )
