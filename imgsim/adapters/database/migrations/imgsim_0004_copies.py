"""Groups of copies, and what uploads want done with copies."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.columns import UUID, Serial, Varchar
from piccolo.engine.finder import engine_finder
from piccolo.table import Table

ID = "0004"
VERSION = "1.38.0"
DESCRIPTION = "copy_member, not_copies, image.on_copy, reservation.on_copy"

DDL = (
    "CREATE INDEX copy_member_group ON copy_member (copy_group, image)",
    "CREATE INDEX copy_member_in_collection ON copy_member (collection, copy_group)",
    "CREATE UNIQUE INDEX not_copies_once ON not_copies (image, dismissal)",
    "ALTER TABLE image ADD COLUMN on_copy VARCHAR(16)",
    "ALTER TABLE reservation ADD COLUMN on_copy VARCHAR(16)",
)


async def create() -> None:
    engine = engine_finder()

    class CopyMember(Table, db=engine, tablename="copy_member"):
        image = UUID(primary_key=True, default=None)
        copy_group = UUID(default=None)
        collection = Varchar(length=255)

    class NotCopies(Table, db=engine, tablename="not_copies"):
        id = Serial(primary_key=True)
        image = UUID(default=None)
        dismissal = UUID(default=None, index=True)

    for table in (CopyMember, NotCopies):
        await table.create_table(if_not_exists=True)
    for ddl in DDL:
        await CopyMember.raw(ddl).run()


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="imgsim", description=DESCRIPTION)
    manager.add_raw(create)
    return manager
