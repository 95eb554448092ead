"""Decoded pictures on their way from the upload to the first stage."""

from collections import OrderedDict
from uuid import UUID

from imgsim.core.models import Picture


class PictureBuffer:
    """Keeps the pictures that the door decoded, so that the pipeline need not decode again.

    Bounded by `max_bytes`: what does not fit is not kept, and the pipeline decodes it from the
    store. The oldest stay, since they are the next to be worked on.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._pictures: OrderedDict[UUID, Picture] = OrderedDict()

    def put(self, image_id: UUID, picture: Picture) -> None:
        if image_id not in self._pictures and self._bytes + picture.nbytes <= self._max_bytes:
            self._pictures[image_id] = picture
            self._bytes += picture.nbytes

    def pop(self, image_id: UUID) -> Picture | None:
        picture = self._pictures.pop(image_id, None)
        if picture is not None:
            self._bytes -= picture.nbytes
        return picture
