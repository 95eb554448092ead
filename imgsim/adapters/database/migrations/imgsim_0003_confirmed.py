"""Reservations remember what came of them."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.engine.finder import engine_finder
from piccolo.table import Table

ID = "0003"
VERSION = "1.38.0"
DESCRIPTION = "reservation.image"

COLUMN = "ALTER TABLE reservation ADD COLUMN image UUID"


async def add() -> None:
    class Reservation(Table, db=engine_finder(), tablename="reservation"):
        pass

    await Reservation.raw(COLUMN).run()


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="imgsim", description=DESCRIPTION)
    manager.add_raw(add)
    return manager
