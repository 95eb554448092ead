"""``/images/{id}/similar`` and ``/search``."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Controller, get, post
from litestar.params import FromPath, QueryParameter

from imgsim.adapters.http import openapi
from imgsim.adapters.http.bodies import AnyRequest, convert, media_type, parse_json, read_form, read_json
from imgsim.adapters.http.images import Cursor, Limit, Tags
from imgsim.adapters.http.services import Injected, Services
from imgsim.core.errors import InvalidRequest
from imgsim.core.models import SearchAnswer, SearchFilter
from imgsim.core.services.search import Page


class SearchBody(msgspec.Struct, forbid_unknown_fields=True):
    """What to search by (one of: text, url, or positive with negative), and which part of the answer."""

    text: str | None = None
    url: str | None = None
    positive: list[UUID] = []
    negative: list[UUID] = []
    collection: str | None = None
    tag: str | list[str] = []
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    min_score: Annotated[float, msgspec.Meta(ge=-1, le=1)] | None = None
    cursor: str | None = None

    @property
    def page(self) -> Page:
        return Page(self.limit, self.min_score, self.cursor)

    @property
    def where(self) -> SearchFilter:
        return SearchFilter(self.collection, [self.tag] if isinstance(self.tag, str) else self.tag)


_LISTS = {"positive", "negative", "tag"}
_FIELDS = {field.name for field in msgspec.structs.fields(SearchBody)}


class SearchController(Controller):
    tags = ["search"]

    @get(
        "/images/{image_id:uuid}/similar",
        summary="Images that look like this one",
        responses={
            200: openapi.answer(SearchAnswer, "Best first", "application/json", openapi.ANSWER),
            **openapi.problems(404, 409),
        },
    )
    async def similar(
        self,
        services: Injected,
        image_id: FromPath[UUID],
        limit: Limit = 10,
        min_score: Annotated[
            float | None, QueryParameter(ge=-1, le=1, description="Cosine similarity at least.")
        ] = None,
        tag: Tags = None,
        cursor: Cursor = None,
    ) -> SearchAnswer:
        """In the image's own collection, best first; the image itself is not among them."""
        return await services.search().similar(image_id, Page(limit, min_score, cursor), tag or ())

    @post(
        "/search",
        status_code=200,
        summary="Search by an image that is not stored, or by examples",
        operation_class=openapi.search_body(SearchBody),
        responses={
            200: openapi.answer(SearchAnswer, "Best first", "application/json", openapi.ANSWER),
            **openapi.problems(404, 409, 413, 415, 422, 503),
        },
    )
    async def search(self, request: AnyRequest, services: Injected) -> SearchAnswer:
        """Multipart with `file`, the parameters as fields; or a JSON object. Without `collection`: in all.

        The image at a `url` is fetched from public addresses only.
        """
        if media_type(request) == "multipart/form-data":
            return await self._by_form(request, services)
        return await self._by_body(await read_json(request, SearchBody), services)

    async def _by_form(self, request: AnyRequest, services: Services) -> SearchAnswer:
        async with read_form(request, services.max_upload_bytes) as form:
            form.only(_FIELDS)
            values: dict[str, Any] = {
                name: _flat(form.fields[name]) if name in _LISTS else form.one(name) for name in form.fields
            }
            body = convert({name: value for name, value in values.items() if value not in ("", [])}, SearchBody)
            if not form.files:
                return await self._by_body(body, services)
            if body.text or body.url or body.positive or body.negative:
                raise InvalidRequest("Search by one thing at a time: a file, a text, a url, or examples.")
            found = await services.reader().inspect(form.files[0].file, urgent=True)
        return await services.search().by_picture(found.picture, body.page, body.where)

    async def _by_body(self, body: SearchBody, services: Services) -> SearchAnswer:
        examples = bool(body.positive or body.negative)
        if (body.text is not None) + (body.url is not None) + examples != 1:
            raise InvalidRequest("Search by one thing: a file (multipart), text, url, or positive and negative images.")
        if body.url is not None:
            async with services.fetcher().fetch(body.url) as file:
                found = await services.reader().inspect(file, urgent=True)
            return await services.search().by_picture(found.picture, body.page, body.where)
        if body.text is not None:
            return await services.search().by_text(body.text, body.page, body.where)
        return await services.search().by_examples(body.positive, body.negative, body.page, body.where)


def _flat(values: list[str]) -> list[str]:
    """A list in a form: the field repeated, or once as a JSON list."""
    if len(values) == 1 and values[0].lstrip().startswith("["):
        return parse_json(values[0], list[str], f"{values[0][:80]!r}")
    return [value for value in values if value]
