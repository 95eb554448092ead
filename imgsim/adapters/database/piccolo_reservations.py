"""Announced uploads, in a table of their own."""

from collections.abc import Sequence
from uuid import UUID

from imgsim.adapters.database.rows import reservation_of, row_of_reservation, uuid_of
from imgsim.adapters.database.session import Session
from imgsim.adapters.database.statements import insert
from imgsim.adapters.database.tables import Tables
from imgsim.core.errors import ImageNotFound
from imgsim.core.models import Reservation


class PiccoloReservations:
    """The part of the repository that keeps reservations."""

    _session: Session
    _tables: Tables

    async def reserve(self, reservation: Reservation) -> None:
        await self._session.execute(insert("reservation", row_of_reservation(reservation)))

    async def reservation(self, image_id: UUID) -> Reservation:
        table = self._tables.reservation
        rows = await self._session.select(table.select().where(table.id == image_id).querystrings[0])
        if not rows:
            raise ImageNotFound(f"No upload was announced for the id {image_id}.")
        return reservation_of(rows[0])

    async def mark_confirmed(self, image_id: UUID, came_of_it: UUID) -> None:
        table = self._tables.reservation
        query = table.update({table.image: came_of_it}).where(table.id == image_id)
        await self._session.execute(query.querystrings[0])

    async def unreserve(self, image_id: UUID) -> None:
        table = self._tables.reservation
        await self._session.execute(table.delete().where(table.id == image_id).querystrings[0])

    async def expired_reservations(self, limit: int) -> Sequence[UUID]:
        table = self._tables.reservation
        query = (
            table.select(table.id)
            .where(table.expires_at <= self._session.now())
            .order_by(table.expires_at)
            .order_by(table.id)
            .limit(limit)
        )
        return [uuid_of(row["id"]) for row in await self._session.select(query.querystrings[0])]
