"""``/duplicates``: groups of copies and of identical bytes."""

from uuid import UUID

from litestar import Controller, get, post
from litestar.params import FromPath, FromQuery
from litestar.status_codes import HTTP_204_NO_CONTENT

from imgsim.adapters.http import openapi
from imgsim.adapters.http.images import Cursor, Limit
from imgsim.adapters.http.services import Injected
from imgsim.core.models import DuplicatePage


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
        responses=openapi.problems(404),
    )
    async def dismiss(self, services: Injected, group_id: FromPath[UUID]) -> None:
        """The images of the group never come into one group again."""
        await services.duplicates().dismiss(group_id)
