"""``/images``: upload, announce, read, list, change, delete, retry."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Controller, Response, delete, get, patch, post
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.status_codes import HTTP_201_CREATED, HTTP_202_ACCEPTED, HTTP_204_NO_CONTENT

from imgsim.adapters.http import openapi
from imgsim.adapters.http.bodies import AnyRequest, parse_json, read_form, read_json
from imgsim.adapters.http.filters import AnyTags, CreatedFrom, CreatedTo, NotTags, Tags
from imgsim.adapters.http.services import Injected
from imgsim.core.errors import InvalidRequest
from imgsim.core.filters import parse_time, valid_filter
from imgsim.core.models import Image, ImageFilter, ImagePage, ImageState, OnCopy
from imgsim.core.services.ingest import valid_collection, valid_sha256
from imgsim.core.shown import shown

Limit = Annotated[int, QueryParameter(ge=1, le=100, description="How many at most, 1 to 100.")]
Cursor = Annotated[str | None, QueryParameter(description="`next_cursor` of the page before.")]


class ImageChange(msgspec.Struct, forbid_unknown_fields=True):
    """What is left out stays; what is given replaces the old."""

    tags: list[str] | None = None
    metadata: dict[str, Any] | None = None


class AnnouncedUpload(msgspec.Struct, forbid_unknown_fields=True):
    """The bytes that will be stored, and what ``/images/upload`` takes beside them."""

    sha256: str
    content_type: str
    bytes: Annotated[int, msgspec.Meta(ge=1)]
    filename: str = ""
    collection: str = "default"
    tags: list[str] = []
    metadata: dict[str, Any] = {}
    on_copy: OnCopy = OnCopy.ACCEPT


class UploadRequest(msgspec.Struct):
    """Send the bytes so, then ``POST complete``, before ``expires_at``."""

    id: UUID
    method: str
    url: str
    headers: Mapping[str, str]
    expires_at: datetime
    complete: str


class ImagesController(Controller):
    path = "/images"
    tags = ["images"]

    @post(
        "/upload",
        status_code=HTTP_202_ACCEPTED,
        summary="Upload an image",
        operation_class=openapi.upload_body,
        responses={
            202: openapi.answer(Image, "Stored; it will be processed", "application/json", openapi.IMAGE),
            200: openapi.answer(Image, "The collection has these bytes already"),
            **openapi.problems(413, 415, 422, 503),
        },
    )
    async def upload(self, request: AnyRequest, services: Injected) -> Response[Image]:
        """Answers as soon as the bytes and the row are durable; follow `Location` for the rest."""
        async with read_form(request, services.max_upload_bytes) as form:
            form.only({"collection", "tags", "metadata", "on_copy"})
            if not form.files:
                raise InvalidRequest("The form has no file in the field 'file'.")
            image = await services.ingest().upload(
                form.files[0].file,
                form.files[0].filename,
                form.one("collection", "default"),
                [tag for tag in form.fields.get("tags", []) if tag],
                _metadata(form.one("metadata")),
                form.files[0].sha256,
                form.one("on_copy") or OnCopy.ACCEPT,
            )
        return Response(image, status_code=200 if image.duplicate else 202, headers={"Location": f"/images/{image.id}"})

    @post(
        "/presign",
        status_code=HTTP_201_CREATED,
        summary="Announce an upload straight to the object store",
        operation_class=openapi.json_body(
            AnnouncedUpload,
            {"sha256": "9f86…0a08", "content_type": "image/jpeg", "bytes": 183042, "filename": "cat.jpg"},
        ),
        responses={
            201: openapi.answer(UploadRequest, "How to store the bytes"),
            200: openapi.answer(Image, "The collection has these bytes already"),
            **openapi.problems(409, 413, 415, 503),
        },
    )
    async def presign(self, request: AnyRequest, services: Injected) -> Response[UploadRequest | Image]:
        """Send the bytes to `url` by `method` with exactly `headers`; then confirm by a POST to `complete`."""
        wanted = await read_json(request, AnnouncedUpload)
        announced = await services.direct().announce(
            wanted.sha256,
            wanted.content_type,
            wanted.bytes,
            wanted.filename,
            wanted.collection,
            wanted.tags,
            wanted.metadata,
            wanted.on_copy,
        )
        if isinstance(announced, Image):
            return Response(announced, status_code=200, headers={"Location": f"/images/{announced.id}"})
        put = announced.put
        complete = f"/images/{announced.id}/complete"
        return Response(UploadRequest(announced.id, "PUT", put.url, put.headers, announced.expires_at, complete))

    @post(
        "/{image_id:uuid}/complete",
        status_code=HTTP_202_ACCEPTED,
        summary="Confirm an announced upload",
        responses={
            202: openapi.answer(Image, "Stored; it will be processed", "application/json", openapi.IMAGE),
            200: openapi.answer(Image, "The collection has these bytes already"),
            **openapi.problems(404, 409, 415, 422, 503),
        },
    )
    async def complete(self, services: Injected, image_id: FromPath[UUID]) -> Response[Image]:
        """Answers when what was stored is checked to be what was announced, and an image."""
        image = await services.direct().confirm(image_id)
        return Response(image, status_code=200 if image.duplicate else 202, headers={"Location": f"/images/{image.id}"})

    @get("/", summary="List images", responses=openapi.problems())
    async def list_images(
        self,
        services: Injected,
        collection: FromQuery[str | None] = None,
        image_state: Annotated[ImageState | None, QueryParameter(name="state")] = None,
        tag: Tags = None,
        any_tag: AnyTags = None,
        not_tag: NotTags = None,
        created_from: CreatedFrom = None,
        created_to: CreatedTo = None,
        sha256: Annotated[
            str | None,
            QueryParameter(
                description="The one with these bytes in `collection`, else `default`; no other filter counts."
            ),
        ] = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> ImagePage:
        """Newest first. Images that arrive while you page neither repeat nor hide others."""
        if sha256 is not None:
            image = await services.images().find(valid_collection(collection or "default"), valid_sha256(sha256))
            return ImagePage([image] if image else [], None)
        try:
            before = UUID(cursor) if cursor else None
        except ValueError as error:
            raise InvalidRequest(f"{str(cursor)[:80]!r} is not a cursor that a list gave.") from error
        where = ImageFilter(
            collection,
            image_state,
            tag or (),
            any_tag or (),
            not_tag or (),
            parse_time(created_from, "created_from") if created_from is not None else None,
            parse_time(created_to, "created_to") if created_to is not None else None,
        )
        valid_filter(where)
        images = await services.images().list(where, limit + 1, before)
        page = images[:limit]
        return ImagePage(page, str(page[-1].id) if len(images) > limit else None)

    @get(
        "/{image_id:uuid}",
        summary="One image",
        responses={
            200: openapi.answer(Image, "The image", "application/json", openapi.IMAGE),
            **openapi.problems(404, 409),
        },
    )
    async def get_image(
        self,
        services: Injected,
        image_id: FromPath[UUID],
        vector: Annotated[bool, QueryParameter(description="Add the embedding itself, as `embedding.vector`.")] = False,
    ) -> Response[Any]:
        image = await services.images().get(image_id)
        if not vector:
            return Response(image)
        values = await services.search().vector(image)
        body = msgspec.to_builtins(shown(image))
        body["embedding"]["vector"] = values.tolist()
        return Response(body)

    @patch(
        "/{image_id:uuid}",
        summary="Change tags or metadata",
        operation_class=openapi.json_body(ImageChange, {"tags": ["cat", "sofa"], "metadata": {"album": 7}}),
        responses=openapi.problems(404),
    )
    async def change_image(self, request: AnyRequest, services: Injected, image_id: FromPath[UUID]) -> Image:
        change = await read_json(request, ImageChange)
        return await services.lifecycle().update(image_id, change.tags, change.metadata)

    @delete(
        "/{image_id:uuid}",
        status_code=HTTP_204_NO_CONTENT,
        summary="Delete an image and all that was made of it",
        responses=openapi.problems(404),
    )
    async def delete_image(self, services: Injected, image_id: FromPath[UUID]) -> None:
        await services.lifecycle().delete(image_id)

    @post(
        "/{image_id:uuid}/retry",
        status_code=HTTP_202_ACCEPTED,
        summary="Process an image in error again",
        responses=openapi.problems(404, 409),
    )
    async def retry_image(self, services: Injected, image_id: FromPath[UUID]) -> Image:
        return await services.lifecycle().retry(image_id)


def _metadata(text: str) -> dict[str, Any]:
    if not text:
        return {}
    return parse_json(text, dict[str, Any], "The field 'metadata'")
