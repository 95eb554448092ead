"""The SQL that every image passes through, as templates that both engines take.

Piccolo's query builder takes 0.2 ms to put one of these together, which was a third of the Python time
of an upload; a template takes a tenth of that. What happens seldom is written with the query builder.

Statements that change many rows lock them in the order of their ids first, so that no two of them ever
wait for each other. Where ids are given, COALESCE and MATERIALIZED keep PostgreSQL from the indexes of
what is due, claimed or deleted: it takes them for empty while its statistics are those of a quiet hour.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from piccolo.columns.combination import WhereRaw
from piccolo.querystring import QueryString

from imgsim.adapters.database.session import Dialect
from imgsim.adapters.database.tables import ImageRow
from imgsim.core.filters import MOST_TAGS
from imgsim.core.models import STATE_OF_STAGE, ImageState, least_id_at

COLUMNS = ", ".join(f'"{column._meta.db_column_name}"' for column in ImageRow._meta.columns)

Time = datetime | QueryString

_TAGS_ONE_BY_ONE = 8
"""Tags to filter by that get a condition of their own, which is fast; SQLite takes no hundred of them."""

_CLOCKS = timedelta(days=1)
_ANNOUNCED = timedelta(days=8)
"""How much older an id may be than its image: as long as an announced upload may wait (``upload.reservation_seconds``),
and what the clocks may differ by."""

_CLAIMED = "id = {} AND attempts = {} AND COALESCE(owner, '') <> '' AND deleted_at IS NULL"


def insert(table: str, *rows: Mapping[str, Any]) -> QueryString:
    """Gives the ids of `rows`, which have the same columns; not of those with a key that is there already."""
    names = ", ".join(f'"{name}"' for name in rows[0])
    places = ", ".join([f"({places_of(rows[0])})"] * len(rows))
    sql = f"INSERT INTO {table} ({names}) VALUES {places} ON CONFLICT DO NOTHING RETURNING id"
    return QueryString(sql, *(value for row in rows for value in row.values()))


def insert_tags(image_id: UUID, tags: Sequence[str]) -> QueryString:
    """Adds nothing where there is no such image."""
    rows = " UNION ALL ".join("SELECT {}" for _ in tags)
    return QueryString(
        f"INSERT INTO image_tag (image, tag) SELECT image.id, tags.tag FROM image "
        f"CROSS JOIN (SELECT NULL AS tag WHERE 1 = 0 UNION ALL {rows}) AS tags "
        f"WHERE image.id = {{}} AND image.deleted_at IS NULL",
        *tags,
        image_id,
    )


def add_tag(dialect: Dialect, image_id: UUID, tag: str, now: Time) -> Sequence[QueryString]:
    """The first gives the image, where it did not have the tag and has room for it. What it knows of the tags is in the
    row that it changes, since PostgreSQL looks at that again where it had to wait for another change of it."""
    one_more, has = QueryString(dialect.one_more_tag, tag), QueryString(dialect.has_tag, tag)
    room = f"NOT {{}} AND {dialect.count_of_tags} < {MOST_TAGS}"
    which = QueryString(f"id = {{}} AND deleted_at IS NULL AND {room}", image_id, has)
    return (
        change({"tags": one_more}, now, which),
        QueryString(
            "INSERT INTO image_tag (image, tag) SELECT id, {} FROM image "
            "WHERE id = {} AND deleted_at IS NULL AND {} ON CONFLICT DO NOTHING",
            tag,
            image_id,
            has,
        ),
    )


def mark_pending(dialect: Dialect, image_ids: Sequence[UUID], now: Time) -> QueryString:
    which = QueryString(f"id {{}} AND state = '{ImageState.CREATED}' AND deleted_at IS NULL", dialect.one_of(image_ids))
    entered = dialect.states(ImageState.PENDING, now)
    changes = QueryString(f"state = '{ImageState.PENDING}', states = {{}}, updated_at = {{}}", entered, now)
    return _update(which, dialect.lock, changes, COLUMNS)


def claim(
    dialect: Dialect, image_ids: Sequence[UUID], owner: str, now: Time, until: Time, stage: str, lost: bool
) -> QueryString:
    """What somebody else is changing in this moment is not waited for, and not claimed."""
    which = QueryString(
        f"id {{}} AND COALESCE(due_at, {{}}) <= {{}} AND COALESCE(owner, '') {'<>' if lost else '='} '' "
        "AND deleted_at IS NULL",
        dialect.one_of(image_ids),
        until,
        now,
    )
    state = STATE_OF_STAGE.get(stage, ImageState.PENDING)
    changes = QueryString(
        "state = {}, states = {}, stage = {}, attempts = attempts + 1, failures = failures + 1, "
        "owner = {}, due_at = {}, updated_at = {}",
        state.value,
        dialect.states(state, now),
        stage,
        owner,
        until,
        now,
    )
    return _update(which, dialect.lock_free, changes, COLUMNS)


def change_claimed(
    image_id: UUID, attempt: int, values: Mapping[str, Any], now: Time, give_back: bool = False
) -> QueryString:
    """Under the fence of a claim: gives nothing, and changes nothing, where the row has moved on."""
    more = {"failures": QueryString("failures - 1")} if give_back else {}
    return change({**values, **more}, now, QueryString(_CLAIMED, image_id, attempt))


def change(values: Mapping[str, Any], now: Time, which: QueryString) -> QueryString:
    """Gives the rows that changed."""
    changes = ", ".join(f'"{name}" = {{}}' for name in values)
    sql = f"UPDATE image SET {changes}, updated_at = {{}} WHERE {{}} RETURNING {COLUMNS}"
    return QueryString(sql, *values.values(), now, which)


def renew(dialect: Dialect, owner: str, image_ids: Sequence[UUID], until: Time) -> QueryString:
    which = QueryString("id {} AND COALESCE(owner, '') = {} AND deleted_at IS NULL", dialect.one_of(image_ids), owner)
    return _update(which, dialect.lock, QueryString("due_at = {}", until), "id")


def release(dialect: Dialect, owner: str, now: Time) -> QueryString:
    """Tombstones too: nobody works on them any more."""
    changes = QueryString(
        f"state = '{ImageState.PENDING}', states = {{}}, stage = NULL, failures = failures - 1, "
        "owner = NULL, due_at = {}, updated_at = {}",
        dialect.states(ImageState.PENDING, now),
        now,
        now,
    )
    return _update(QueryString("owner = {}", owner), dialect.lock, changes, "id, deleted_at")


def end_leases(dialect: Dialect, now: Time) -> QueryString:
    changes = QueryString("due_at = {}, owner = CASE WHEN deleted_at IS NULL THEN owner END", now)
    return _update(QueryString("owner IS NOT NULL"), dialect.lock, changes, "deleted_at")


def purge(image_id: UUID, now: Time) -> Sequence[QueryString]:
    """Whether another image has the same bytes is for the next sweep of the cache to find out: two
    transactions that purge the last two of them do not see each other."""
    tombstone = (
        "(WITH one AS MATERIALIZED (SELECT id, sha256, deleted_at FROM image WHERE id = {}) "
        "SELECT %s FROM one WHERE deleted_at IS NOT NULL)"
    )
    same_bytes, itself = tombstone % "sha256", tombstone % "id"
    return (
        QueryString(f"UPDATE cached_embedding SET orphaned_at = {{}} WHERE sha256 IN {same_bytes}", now, image_id),
        *(
            QueryString(f"DELETE FROM {table} WHERE image IN {itself}", image_id)
            for table in ("image_tag", "copy_member", "not_copies")
        ),
        QueryString(f"DELETE FROM image WHERE id IN {itself}", image_id),
    )


def select_images(dialect: Dialect, image_ids: Sequence[UUID]) -> QueryString:
    return QueryString(f"SELECT {COLUMNS} FROM image WHERE id {{}} AND deleted_at IS NULL", dialect.one_of(image_ids))


def select_by_bytes(collection: str, sha256: str) -> QueryString:
    sql = f"SELECT {COLUMNS} FROM image WHERE collection = {{}} AND sha256 = {{}} AND deleted_at IS NULL"
    return QueryString(sql, collection, sha256)


def with_tags(tags: Sequence[str], any_tags: Sequence[str], no_tags: Sequence[str]) -> list[WhereRaw]:
    """Conditions on an image: it has all of `tags`, at least one of `any_tags`, none of `no_tags`."""
    tags = [*dict.fromkeys(tags)]
    one_by_one, together = tags[:_TAGS_ONE_BY_ONE], tags[_TAGS_ONE_BY_ONE:]
    found = [WhereRaw("id IN (SELECT image FROM image_tag WHERE tag = {})", tag) for tag in one_by_one]
    if together:
        with_all = (
            f"SELECT image FROM image_tag WHERE tag IN ({places_of(together)}) GROUP BY image HAVING COUNT(*) = {{}}"
        )
        found.append(WhereRaw(f"id IN ({with_all})", *together, len(together)))
    if any_tags:
        found.append(WhereRaw(f"id IN (SELECT image FROM image_tag WHERE tag IN ({places_of(any_tags)}))", *any_tags))
    if no_tags:
        one = f"SELECT 1 FROM image_tag WHERE image_tag.image = image.id AND tag IN ({places_of(no_tags)})"
        found.append(WhereRaw(f"NOT EXISTS ({one})", *no_tags))
    return found


def places_of(values: Collection[str]) -> str:
    return ", ".join("{}" for _ in values)


def collections(limit: int) -> QueryString:
    """From one name to the next by the index ``image_bytes_once``: a look for each collection, not for each row."""
    after = "SELECT collection FROM image WHERE deleted_at IS NULL {} ORDER BY collection LIMIT 1"
    first, following = after.format(""), after.format("AND collection > names.name")
    return QueryString(
        f"WITH RECURSIVE names (name) AS (SELECT * FROM ({first}) AS first "
        f"UNION ALL SELECT ({following}) FROM names WHERE name IS NOT NULL) "
        "SELECT name FROM names WHERE name IS NOT NULL LIMIT {}",
        limit,
    )


def oldest_id(created_from: datetime) -> UUID:
    """No image that was created at this time or later has an id below: ids are made at most so long before."""
    return least_id_at(created_from, -_ANNOUNCED)


def newest_id(created_to: datetime) -> UUID:
    """No image that was created before this time has an id above, as far as clocks agree to a day."""
    return least_id_at(created_to, _CLOCKS)


def _update(which: QueryString, lock: str, changes: QueryString, returning: str) -> QueryString:
    return QueryString(
        f"WITH chosen AS (SELECT id FROM image WHERE {{}} ORDER BY id{lock}) "
        f"UPDATE image SET {{}} WHERE id IN (SELECT id FROM chosen) RETURNING {returning}",
        which,
        changes,
    )
