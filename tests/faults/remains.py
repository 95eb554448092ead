"""What a data directory holds, read from its parts themselves while no server has it open."""

import asyncio
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from imgsim.adapters.vectors.qdrant_edge import QdrantEdgeVectorIndex


@dataclass(frozen=True, slots=True)
class Remains:
    """Ids in each part of a data directory."""

    states: Mapping[UUID, str]
    """The state of each row that is not deleted."""
    tombstones: frozenset[UUID]
    objects: frozenset[UUID]
    """Ids of the images that have a file, an original or one that a stage made."""
    vectors: frozenset[UUID]
    temporaries: int
    """Files that somebody began to write."""

    @property
    def orphan_objects(self) -> frozenset[UUID]:
        return self.objects - self.states.keys()

    @property
    def orphan_vectors(self) -> frozenset[UUID]:
        return self.vectors - {image_id for image_id, state in self.states.items() if state == "done"}

    def hold(self, image_id: str) -> bool:
        """Whether anything at all is left of the image."""
        every = self.states.keys() | self.tombstones | self.objects | self.vectors
        return UUID(image_id) in every


def read_remains(data_dir: Path) -> Remains:
    """What is in `data_dir`, whose server has ended."""
    with closing(sqlite3.connect(data_dir / "imgsim.sqlite")) as database:
        rows = database.execute("SELECT id, state, deleted_at FROM image").fetchall()
    objects = data_dir / "objects"
    originals = [path.name for path in objects.glob("originals/*/*")]
    derived = [path.parent.name for path in objects.glob("derived/*/*/*")]
    return Remains(
        states={UUID(row[0]): row[1] for row in rows if row[2] is None},
        tombstones=frozenset(UUID(row[0]) for row in rows if row[2] is not None),
        objects=frozenset(UUID(name) for name in [*originals, *derived]),
        vectors=frozenset(asyncio.run(_vectors(data_dir / "vectors"))),
        temporaries=sum(1 for path in (objects / "tmp").iterdir() if path.name != "lock"),
    )


async def _vectors(folder: Path) -> list[UUID]:
    async with QdrantEdgeVectorIndex(folder) as index:
        return [image_id for model in await index.models() async for image_id in index.ids(model)]


def set_state(data_dir: Path, image_id: str, state: str) -> None:
    """Take the row of an unclaimed image back to `state`, as a death between two writes would leave it."""
    with closing(sqlite3.connect(data_dir / "imgsim.sqlite")) as database, database:
        statement = "UPDATE image SET state = ? WHERE id = ? AND owner IS NULL"
        assert database.execute(statement, (state, image_id)).rowcount == 1
