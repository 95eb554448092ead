"""``/images/{id}/similar`` and ``/search``."""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Controller, get, post
from litestar.params import FromPath, QueryParameter

from imgsim.adapters.http import openapi
from imgsim.adapters.http.bodies import AnyRequest, convert, media_type, parse_json, read_form, read_json
from imgsim.adapters.http.filters import (
    AnyTags,
    CreatedFrom,
    CreatedTo,
    Metadata,
    NotTags,
    Tags,
)
from imgsim.adapters.http.images import Cursor, Limit
from imgsim.adapters.http.services import Injected, Services
from imgsim.core.errors import InvalidRequest
from imgsim.core.filters import parse_filter, parse_metadata
from imgsim.core.models import Example, SearchAnswer, SearchFilter
from imgsim.core.services.search import Page


class WeightedExample(msgspec.Struct, forbid_unknown_fields=True):
    id: UUID
    weight: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class SearchBody(msgspec.Struct, forbid_unknown_fields=True):
    """What to search by (one of: text, url, or positive with negative), and which part of the answer."""

    text: str | None = None
    url: str | None = None
    positive: list[UUID | WeightedExample] = []
    negative: list[UUID | WeightedExample] = []
    collection: str | None = None
    tag: str | list[str] = []
    any_tag: str | list[str] = []
    not_tag: str | list[str] = []
    created_from: str | None = None
    created_to: str | None = None
    metadata: dict[str, Any] = {}
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    min_score: Annotated[float, msgspec.Meta(ge=-1, le=1)] | None = None
    exact: bool = False
    cursor: str | None = None

    @property
    def page(self) -> Page:
        return Page(self.limit, self.min_score, self.cursor, self.exact)

    @property
    def where(self) -> SearchFilter:
        return parse_filter(
            collection=self.collection,
            tag=_listed(self.tag),
            any_tag=_listed(self.any_tag),
            not_tag=_listed(self.not_tag),
            created_from=self.created_from,
            created_to=self.created_to,
            metadata=self.metadata,
        )


_LISTS = {"positive", "negative", "tag", "any_tag", "not_tag", "metadata"}
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
        any_tag: AnyTags = None,
        not_tag: NotTags = None,
        created_from: CreatedFrom = None,
        created_to: CreatedTo = None,
        metadata: Metadata = None,
        exact: Annotated[
            bool, QueryParameter(description="Compare every full vector: no result is missed, and it takes longer.")
        ] = False,
        cursor: Cursor = None,
    ) -> SearchAnswer:
        """In the image's own collection, best first; the image itself is not among them.

        `percentile` is the place of a score among those of random pairs of the collection: 99.7 is more alike than
        997 of 1000 pairs.
        """
        where = parse_filter(
            tag=tag,
            any_tag=any_tag,
            not_tag=not_tag,
            created_from=created_from,
            created_to=created_to,
            metadata=metadata,
        )
        return await services.search().similar(image_id, Page(limit, min_score, cursor, exact), where)

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
            values |= {name: _objects(values[name]) for name in ("positive", "negative", "metadata") if name in values}
            if values.get("metadata"):
                values["metadata"] = _pairs(values["metadata"])
            body = convert({name: value for name, value in values.items() if value not in ("", [])}, SearchBody)
            if not form.files:
                return await self._by_body(body, services)
            if body.text or body.url or body.positive or body.negative:
                raise InvalidRequest("Search by one thing at a time: a file, a text, a url, or examples.")
            found = await services.reader().inspect(form.files[0].file, urgent=True)
        return await services.search().by_picture(found.picture, body.page, body.where, form.files[0].sha256)

    async def _by_body(self, body: SearchBody, services: Services) -> SearchAnswer:
        examples = bool(body.positive or body.negative)
        if (body.text is not None) + (body.url is not None) + examples != 1:
            raise InvalidRequest("Search by one thing: a file (multipart), text, url, or positive and negative images.")
        if body.url is not None:
            async with services.fetcher().fetch(body.url) as file:
                found = await services.reader().inspect(file, urgent=True)
                sha256 = await services.reader().sha256(file)
            return await services.search().by_picture(found.picture, body.page, body.where, sha256)
        if body.text is not None:
            return await services.search().by_text(body.text, body.page, body.where)
        positive, negative = _examples(body.positive), _examples(body.negative)
        return await services.search().by_examples(positive, negative, body.page, body.where)


def _examples(given: Sequence[UUID | WeightedExample]) -> list[Example]:
    return [Example(each) if isinstance(each, UUID) else Example(each.id, each.weight) for each in given]


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _flat(values: list[str]) -> list[Any]:
    """A list in a form: the field repeated, or once as a JSON list."""
    if len(values) == 1 and values[0].lstrip().startswith("["):
        return parse_json(values[0], list[Any], f"{values[0][:80]!r}")
    return [value for value in values if value]


def _objects(values: list[Any]) -> list[Any]:
    """Those of `values` that are a JSON object as a text, as objects."""
    return [
        parse_json(value, dict[str, Any], f"{value[:80]!r}")
        if isinstance(value, str) and value.lstrip().startswith("{")
        else value
        for value in values
    ]


def _pairs(given: list[Any]) -> Any:
    """``metadata`` in a form: once as a JSON object, or as ``key=value``, repeated."""
    if len(given) == 1 and isinstance(given[0], dict):
        return given[0]
    return parse_metadata([each if isinstance(each, str) else "" for each in given])
