"""The life of a job, on the table of images: leases, attempts, and the fence around them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from piccolo.columns import Column, Where
from piccolo.query.base import Query
from piccolo.querystring import QueryString

from imgsim.adapters.database import statements
from imgsim.adapters.database.rows import image_of, json_of, uuid_of
from imgsim.adapters.database.session import Rows, Session
from imgsim.adapters.database.tables import ImageRow
from imgsim.core.errors import ImageNotFound, LeaseLost
from imgsim.core.models import STATE_OF_STAGE, Bell, EmbeddingInfo, Image, ImageError, ImageState

Values = dict[Column | str, Any]


class PiccoloJobs:
    """The part of the repository that says who works on what."""

    _session: Session
    _image: type[ImageRow]

    async def mark_pending(self, image_ids: Sequence[UUID]) -> Sequence[Image]:
        if not image_ids:
            return []
        statement = statements.mark_pending(self._session.dialect, image_ids, self._session.now())
        (rows,) = await self._session.execute(statement, synced=False)
        return [image_of(row) for row in rows]

    async def claim(
        self, image_ids: Sequence[UUID], owner: str, lease_seconds: float, stage: str, lost: bool = False
    ) -> Sequence[Image]:
        if not image_ids:
            return []
        now, until = self._session.now(), self._session.now(lease_seconds)
        statement = statements.claim(self._session.dialect, image_ids, owner, now, until, stage, lost)
        (rows,) = await self._session.execute(statement, synced=False)
        return [image_of(row) for row in rows]

    async def renew(self, owner: str, image_ids: Sequence[UUID], lease_seconds: float) -> set[UUID]:
        if not image_ids:
            return set()
        until = self._session.now(lease_seconds)
        statement = statements.renew(self._session.dialect, owner, image_ids, until)
        (rows,) = await self._session.execute(statement, synced=False)
        return {uuid_of(row["id"]) for row in rows}

    async def advance(self, image_id: UUID, attempt: int, stage: str, features: Mapping[str, Any]) -> Image:
        values: dict[str, Any] = {"stage": stage, "features": json_of(features)}
        if stage in STATE_OF_STAGE:
            values["state"] = STATE_OF_STAGE[stage].value
        return await self._change_claimed(image_id, attempt, values)

    async def finish(
        self, image_id: UUID, attempt: int, features: Mapping[str, Any], embedding: EmbeddingInfo | None
    ) -> Image:
        values = {
            "state": ImageState.DONE.value,
            "stage": None,
            "error": None,
            "features": json_of(features),
            "model": embedding.model if embedding else None,
            "dimensions": embedding.dimensions if embedding else None,
            "owner": None,
            "due_at": None,
        }
        return await self._change_claimed(image_id, attempt, values)

    async def fail(
        self, image_id: UUID, attempt: int, error: ImageError, retry_at: datetime | None, counts: bool = True
    ) -> Image:
        values = {
            "state": (ImageState.PENDING if retry_at else ImageState.ERROR).value,
            "stage": None if retry_at else error.stage,
            "error": json_of(asdict(error)),
            "owner": None,
            "due_at": retry_at,
        }
        return await self._change_claimed(image_id, attempt, values, give_back=not counts)

    async def failures(self, image_id: UUID) -> int:
        rows = await self._select(
            self._image.select(self._image.failures).where(self._image.id == image_id, self._alive)
        )
        if not rows:
            raise ImageNotFound(f"No image has the id {image_id}.")
        return int(rows[0]["failures"])

    async def release(self, owner: str) -> Sequence[UUID]:
        (rows,) = await self._session.execute(statements.release(self._session.dialect, owner, self._session.now()))
        return [uuid_of(row["id"]) for row in rows if row["deleted_at"] is None]

    async def end_leases(self) -> int:
        (rows,) = await self._session.execute(statements.end_leases(self._session.dialect, self._session.now()))
        return sum(row["deleted_at"] is None for row in rows)

    async def due(self, limit: int) -> Sequence[Bell]:
        rows = await self._select(self._first_due(self._image.owner.is_null()).limit(limit))
        return [Bell(uuid_of(row["id"]), row["attempts"]) for row in rows]

    async def lost(self, limit: int) -> Sequence[UUID]:
        rows = await self._select(self._first_due(self._image.owner.is_not_null()).limit(limit))
        return [uuid_of(row["id"]) for row in rows]

    async def bury(self, max_attempts: int) -> Sequence[Image]:
        spent = self._image.owner.is_not_null() & (self._image.failures >= max_attempts)
        buried: list[Image] = []
        for row in await self._select(self._first_due(spent)):
            message = f"The process that worked on this image ended in each of {row['failures']} attempts."
            error = ImageError(row["stage"], "worker-lost", message, row["attempts"])
            now = self._session.now()
            values = {
                "state": ImageState.ERROR.value,
                "states": self._session.dialect.states(ImageState.ERROR, now),
                "error": json_of(asdict(error)),
                "owner": None,
                "due_at": None,
            }
            fence = "id = {} AND attempts = {} AND due_at <= {} AND owner IS NOT NULL AND failures >= {}"
            which = QueryString(f"{fence} AND deleted_at IS NULL", row["id"], row["attempts"], now, max_attempts)
            (changed,) = await self._session.execute(statements.change(values, now, which))
            buried += map(image_of, changed)
        return buried

    # the pieces

    @property
    def _alive(self) -> Where:
        return self._image.deleted_at.is_null()

    @property
    def _overdue(self) -> tuple[Where, Where]:
        return self._image.due_at <= self._session.now(), self._alive

    def _first_due(self, which: Any) -> Any:
        """Of `which` unfinished images, those that are due, longest first."""
        row = self._image
        query = row.select(row.id, row.attempts, row.failures, row.stage).where(*self._overdue, which)
        return query.order_by(row.due_at).order_by(row.id)

    async def _select(self, query: Query[Any, Any]) -> Rows:
        return await self._session.select(query.querystrings[0])

    def _update(self, values: Values, *where: Any) -> QueryString:
        query = self._image.update({**values, self._image.updated_at: self._session.now()}).where(*where)
        return query.returning(*self._image.all_columns()).querystrings[0]

    async def _change(self, values: Values, *where: Any) -> Sequence[Image]:
        (rows,) = await self._session.execute(self._update(values, *where))
        return [image_of(row) for row in rows]

    async def _change_claimed(
        self, image_id: UUID, attempt: int, values: Mapping[str, Any], give_back: bool = False
    ) -> Image:
        """One update under the fence of a claim; `give_back` the attempt to the budget."""
        now = self._session.now()
        if "state" in values:
            values = {**values, "states": self._session.dialect.states(ImageState(values["state"]), now)}
        statement = statements.change_claimed(image_id, attempt, values, now, give_back)
        (rows,) = await self._session.execute(statement, synced=False)
        if not rows:
            raise LeaseLost(f"Attempt {attempt} no longer holds the image {image_id}.")
        return image_of(rows[0])
