"""Tags and metadata in the index become those of the row, whoever writes last."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from imgsim.core.models import EmbeddingInfo, Image, ImageState, Inspection, new_image_id
from imgsim.core.services.ingest import new_image
from imgsim.core.services.payload import index_payload


class Rows:
    """The row of one image."""

    def __init__(self, image: Image) -> None:
        self.image: Image | None = image

    async def get_many(self, image_ids: list[UUID]) -> dict[UUID, Image]:
        return {self.image.id: self.image} if self.image else {}


class Index:
    """Changes the row while its first payloads are written, as a PATCH does at that moment."""

    def __init__(self, rows: Rows, changes: list[Image | None]) -> None:
        self.rows, self.changes = rows, changes
        self.payload: Any = None

    async def set_payload(self, model: str, image_id: UUID, tags: Any, metadata: Any) -> None:
        self.payload = list(tags), metadata
        if self.changes:
            self.rows.image = self.changes.pop(0)


def done(**values: Any) -> Image:
    found = Inspection("image/png", 1, 1, picture=None)  # type: ignore[arg-type]
    image = new_image(new_image_id(), "0" * 64, 1, found, collection="x", filename="", tags=["a"], metadata={})
    return replace(image, state=ImageState.DONE, embedding=EmbeddingInfo("model", 2), **values)


async def test_a_change_while_the_payload_is_written_is_written_too() -> None:
    image = done()
    rows = Rows(image)
    index = Index(rows, [replace(image, tags=["b"]), replace(image, tags=["b"], metadata={"n": 1})])
    await index_payload(image, rows, index)  # type: ignore[arg-type]
    assert index.payload == (["b"], {"n": 1})


async def test_an_image_that_is_deleted_meanwhile_ends_it() -> None:
    image = done()
    rows = Rows(image)
    await index_payload(image, rows, Index(rows, [None]))  # type: ignore[arg-type]


async def test_an_image_without_a_point_is_left_alone() -> None:
    image = done(tags=["a"])
    index = Index(Rows(image), [])
    await index_payload(replace(image, state=ImageState.INDEXING), index.rows, index)  # type: ignore[arg-type]
    assert index.payload is None
