"""The first tables.

A migration is a snapshot of its day: never edit it, and never import ``tables.py`` into it; write
the next one. SQLite can only add (tables, columns, indexes), so migrations only add.
"""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.columns import JSONB, UUID, BigInt, Bytea, Integer, Serial, Text, Timestamptz, Varchar
from piccolo.engine.finder import engine_finder
from piccolo.table import Table

ID = "0001"
VERSION = "1.38.0"
DESCRIPTION = "image, image_tag, cached_embedding"

INDEXES = (
    # A tombstone does not stand in the way of a new upload of the same bytes.
    "CREATE UNIQUE INDEX image_bytes_once ON image (collection, sha256) WHERE deleted_at IS NULL",
    "CREATE INDEX image_due ON image (due_at) WHERE due_at IS NOT NULL",
    "CREATE INDEX image_deleted ON image (deleted_at) WHERE deleted_at IS NOT NULL",
    "CREATE INDEX image_sha256 ON image (sha256)",
    "CREATE INDEX image_newest ON image (collection, id)",
    "CREATE UNIQUE INDEX image_tag_once ON image_tag (tag, image)",
    "CREATE UNIQUE INDEX cached_embedding_once ON cached_embedding (sha256, model, preprocessing)",
)


async def create() -> None:
    engine = engine_finder()

    class Image(Table, db=engine, tablename="image"):
        id = UUID(primary_key=True, default=None)
        collection = Varchar(length=255)
        sha256 = Varchar(length=64)
        state = Varchar(length=16, index=True)
        stage = Varchar(length=255, null=True, default=None)
        filename = Text()
        content_type = Varchar(length=255)
        bytes = BigInt()
        width = Integer()
        height = Integer()
        tags = JSONB()
        metadata = JSONB()
        features = JSONB()
        model = Varchar(length=255, null=True, default=None)
        dimensions = Integer(null=True, default=None)
        error = JSONB(null=True, default=None)
        attempts = Integer()
        failures = Integer()
        owner = Varchar(length=64, null=True, default=None)
        due_at = Timestamptz(null=True, default=None)
        created_at = Timestamptz()
        updated_at = Timestamptz()
        deleted_at = Timestamptz(null=True, default=None)

    class ImageTag(Table, db=engine, tablename="image_tag"):
        id = Serial(primary_key=True)
        image = UUID(default=None, index=True)
        tag = Varchar(length=255)

    class CachedEmbedding(Table, db=engine, tablename="cached_embedding"):
        id = Serial(primary_key=True)
        sha256 = Varchar(length=64)
        model = Varchar(length=255)
        preprocessing = Varchar(length=255)
        vector = Bytea()
        orphaned_at = Timestamptz(null=True, default=None, index=True)

    for table in (Image, ImageTag, CachedEmbedding):
        await table.create_table(if_not_exists=True)
    for ddl in INDEXES:
        await Image.raw(ddl).run()


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="imgsim", description=DESCRIPTION)
    manager.add_raw(create)
    return manager
