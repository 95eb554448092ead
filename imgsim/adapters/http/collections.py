"""``/collections``: which there are."""

from dataclasses import dataclass

from litestar import get

from imgsim.adapters.http import openapi
from imgsim.adapters.http.services import Injected

_MOST = 10_000


@dataclass(frozen=True, slots=True)
class CollectionList:
    """The names, sorted; of more than 10,000 collections the first."""

    collections: list[str]


@get("/collections", summary="List collections", tags=["images"], responses=openapi.problems())
async def list_collections(services: Injected) -> CollectionList:
    """A collection is there while it has images."""
    return CollectionList([*await services.images().collections(_MOST)])
