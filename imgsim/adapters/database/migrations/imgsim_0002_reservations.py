"""Announced uploads; and indexes that stay short ways among millions of images."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.columns import JSONB, UUID, BigInt, Text, Timestamptz, Varchar
from piccolo.engine.finder import engine_finder
from piccolo.table import Table

ID = "0002"
VERSION = "1.38.0"
DESCRIPTION = "reservation, image_owner, image_in_state"

INDEXES = (
    "CREATE INDEX image_owner ON image (owner) WHERE owner IS NOT NULL",
    # Counts the states without reading the table, and lists a rare one without reading the others.
    "CREATE INDEX image_in_state ON image (state, id) WHERE deleted_at IS NULL",
    "DROP INDEX image_state",
)


# Every image leaves half a dozen dead rows behind on its way, and its unfinished ones at the front of the
# queue: a fifth of the table, when vacuum comes by default, is too late.
VACUUM = "ALTER TABLE image SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02)"


async def create() -> None:
    engine = engine_finder()

    class Reservation(Table, db=engine, tablename="reservation"):
        id = UUID(primary_key=True, default=None)
        collection = Varchar(length=255)
        sha256 = Varchar(length=64)
        filename = Text()
        content_type = Varchar(length=255)
        bytes = BigInt()
        tags = JSONB()
        metadata = JSONB()
        expires_at = Timestamptz(index=True)

    await Reservation.create_table(if_not_exists=True)
    for ddl in INDEXES:
        await Reservation.raw(ddl).run()
    if engine is not None and engine.engine_type == "postgres":
        await Reservation.raw(VACUUM).run()


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="imgsim", description=DESCRIPTION)
    manager.add_raw(create)
    return manager
