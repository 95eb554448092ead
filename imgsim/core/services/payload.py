"""Tags and metadata in the vector index: what the row says."""

from imgsim.core.models import Image
from imgsim.core.ports import ImageRepository, VectorIndex


async def index_payload(image: Image, images: ImageRepository, vectors: VectorIndex) -> None:
    """Bring the tags and metadata of `image` to its point, until the row says the same afterwards.

    Whoever changes the row, or finishes an image whose row was changed meanwhile, calls this: of two that write at
    once, the later one to look sees what the other has done. An image that is not searchable has no point yet.
    """
    while image.searchable and image.embedding is not None:
        await vectors.set_payload(image.embedding.model, image.id, image.tags, image.metadata)
        latest = (await images.get_many([image.id])).get(image.id)
        if latest is None or (list(latest.tags), latest.metadata) == (list(image.tags), image.metadata):
            return
        image = latest
