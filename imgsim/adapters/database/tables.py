"""The tables: the same on SQLite and PostgreSQL. The migrations make them; change both together."""

from dataclasses import dataclass
from typing import Any

from piccolo.columns import JSONB, UUID, BigInt, Bytea, Integer, Serial, Text, Timestamptz, Varchar
from piccolo.engine.base import Engine
from piccolo.table import Table


class ImageRow(Table, tablename="image"):
    """One uploaded image, or its tombstone (``deleted_at`` set)."""

    id = UUID(primary_key=True, default=None)
    collection = Varchar(length=255)
    sha256 = Varchar(length=64)
    state = Varchar(length=16)
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
    attempts = Integer()  # every claim ever made; the fence
    failures = Integer()  # claims since the last retry; held against max_attempts
    owner = Varchar(length=64, null=True, default=None)  # who holds the claim
    # When someone may work on this image: its time of retry, or the end of its lease while it is
    # claimed. None for those that rest, so that its index holds the unfinished ones alone.
    due_at = Timestamptz(null=True, default=None)
    created_at = Timestamptz()
    updated_at = Timestamptz()
    deleted_at = Timestamptz(null=True, default=None)
    on_copy = Varchar(length=16, null=True, default=None)  # None: accept
    states = JSONB(null=True, default=None)  # when it last entered each but the first; None: from before 0005


class ImageTagRow(Table, tablename="image_tag"):
    """An index of ``image.tags``, which both engines can search."""

    id = Serial(primary_key=True)
    image = UUID(default=None, index=True)
    tag = Varchar(length=255)


class CachedEmbeddingRow(Table, tablename="cached_embedding"):
    """An embedding by what was computed: bytes, model, preprocessing."""

    id = Serial(primary_key=True)
    sha256 = Varchar(length=64)
    model = Varchar(length=255)
    preprocessing = Varchar(length=255)
    vector = Bytea()  # little-endian float32
    orphaned_at = Timestamptz(null=True, default=None, index=True)  # since when no image has these bytes


class ReservationRow(Table, tablename="reservation"):
    """An upload straight to the object store that was announced, until its time is over."""

    id = UUID(primary_key=True, default=None)
    collection = Varchar(length=255)
    sha256 = Varchar(length=64)
    filename = Text()
    content_type = Varchar(length=255)
    bytes = BigInt()
    tags = JSONB()
    metadata = JSONB()
    expires_at = Timestamptz(index=True)
    image = UUID(null=True, default=None)  # what came of it, once it was confirmed
    on_copy = Varchar(length=16, null=True, default=None)  # None: accept


class CopyMemberRow(Table, tablename="copy_member"):
    """Which group of copies an image is in; a group of one is none."""

    image = UUID(primary_key=True, default=None)
    copy_group = UUID(default=None)
    collection = Varchar(length=255)


class NotCopiesRow(Table, tablename="not_copies"):
    """Images with a common ``dismissal`` are no duplicates of each other: somebody has said so."""

    id = Serial(primary_key=True)
    image = UUID(default=None)
    dismissal = UUID(default=None, index=True)


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables that Piccolo's query builder is used on, bound to one engine."""

    image: type[ImageRow]
    reservation: type[ReservationRow]


def bind_tables(engine: Engine[Any]) -> Tables:
    """Piccolo keeps a table's engine in its class: classes of their own let one process hold two databases open."""

    class Image(ImageRow, db=engine, tablename="image"):
        pass

    class Reservation(ReservationRow, db=engine, tablename="reservation"):
        pass

    return Tables(Image, Reservation)
