"""Images remember when they last entered each state."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.engine.finder import engine_finder
from piccolo.table import Table

ID = "0005"
VERSION = "1.38.0"
DESCRIPTION = "image.states"

COLUMN = "ALTER TABLE image ADD COLUMN states JSONB"


async def add() -> None:
    class Image(Table, db=engine_finder(), tablename="image"):
        pass

    await Image.raw(COLUMN).run()


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="imgsim", description=DESCRIPTION)
    manager.add_raw(add)
    return manager
