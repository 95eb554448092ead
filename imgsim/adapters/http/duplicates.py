"""``/duplicates``: groups of copies and of identical bytes."""

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Controller, get, post
from litestar.params import FromPath, FromQuery
from litestar.status_codes import HTTP_204_NO_CONTENT

from imgsim.adapters.http import openapi
from imgsim.adapters.http.bodies import AnyRequest, read_json_if_any
from imgsim.adapters.http.images import Cursor, Limit
from imgsim.adapters.http.services import Injected
from imgsim.core.models import DuplicatePage


class SeenImages(msgspec.Struct, forbid_unknown_fields=True):
    """The images of a group that somebody has looked at: 2 to 100."""

    images: Annotated[list[UUID], msgspec.Meta(min_length=2, max_length=100)]


_EXAMPLE = {"images": ["0193a5b2-6c1e-7d4f-8a9b-2f5e6c7d8e9f", "0193a5b2-7f03-7a11-9c1d-5b0a4e2f6d38"]}


class DuplicatesController(Controller):
    path = "/duplicates"
    tags = ["duplicates"]

    @get("/", summary="Groups of duplicates", responses=openapi.problems())
    async def list_groups(
        self,
        services: Injected,
        collection: FromQuery[str | None] = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> DuplicatePage:
        """Images that are copies of each other, by collection; without `collection`, then those with the same bytes.

        A group has two images or more, oldest first, of which at most 100 are told. Delete those that you do not want.
        """
        return await services.duplicates().page(limit, collection, cursor)

    @post(
        "/{group_id:uuid}/dismiss",
        status_code=HTTP_204_NO_CONTENT,
        summary="These are no duplicates",
        operation_class=openapi.json_body(SeenImages, _EXAMPLE, required=False),
        responses=openapi.problems(404),
    )
    async def dismiss(self, request: AnyRequest, services: Injected, group_id: FromPath[UUID]) -> None:
        """No two of the group's images come into one group again; with a body no two of those that it names.

        The oldest of these stays with the images that were not named. What is not in the group is passed over.
        """
        seen = await read_json_if_any(request, SeenImages)
        await services.duplicates().dismiss(group_id, seen.images if seen else None)
