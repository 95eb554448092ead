"""``/images/{id}/file`` and ``/thumbnail``: what a browser shows, in the way its cache likes it."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Annotated, Any
from uuid import UUID

from litestar import Controller, HttpMethod, Response, get, route
from litestar.params import FromPath, QueryParameter
from litestar.response import Redirect, Stream

from imgsim.adapters.http import openapi
from imgsim.adapters.http.bodies import AnyRequest
from imgsim.adapters.http.caching import is_known, wanted_range
from imgsim.adapters.http.problems import problem
from imgsim.adapters.http.services import Injected, Services
from imgsim.adapters.objects import content_disposition
from imgsim.core.models import Image, original_key
from imgsim.core.thumbnails import CONTENT_TYPE, size_of

_FOR_GOOD = "private, max-age=31536000, immutable"
_FOR_A_WEEK = "private, max-age=604800"
"""For what another version of imgsim may make in another way."""


class FilesController(Controller):
    path = "/images"
    tags = ["images"]

    @route(
        "/{image_id:uuid}/file",
        http_method=[HttpMethod.GET, HttpMethod.HEAD],
        summary="The bytes as uploaded",
        responses={
            200: openapi.answer(bytes, "The bytes", "image/*"),
            206: openapi.answer(bytes, "Those of one `Range`", "image/*"),
            304: openapi.answer(None, "The bytes that you have, by `If-None-Match`"),
            307: openapi.answer(None, "They are there"),
            **openapi.problems(404, 416, 503),
        },
    )
    async def get_file(
        self,
        request: AnyRequest,
        services: Injected,
        image_id: FromPath[UUID],
        download: Annotated[bool, QueryParameter(description="Whether a browser shall save the file.")] = False,
    ) -> Response[Any]:
        """A redirect to a presigned URL where the object store has them."""
        image = await services.images().get(image_id)
        headers = {
            "ETag": f'"{image.sha256}"',
            "Cache-Control": _FOR_GOOD,
            "Content-Disposition": content_disposition(image.filename or str(image.id), download),
            "X-Content-Type-Options": "nosniff",
        }
        if is_known(request.headers, headers["ETag"]):
            return Response(None, status_code=304, headers=headers)
        if request.method == "GET":  # a presigned GET answers no HEAD
            key = original_key(image_id)
            url = await services.objects().presign_get(key, services.presign_seconds, image.filename, download)
            if url is not None:
                return _there(url, services)
        return await _file(request, services, image, headers)

    @get(
        "/{image_id:uuid}/thumbnail",
        summary="A small WebP of it",
        responses={
            200: openapi.answer(bytes, "Upright, in sRGB", CONTENT_TYPE),
            304: openapi.answer(None, "The bytes that you have, by `If-None-Match`"),
            307: openapi.answer(None, "It is there"),
            **openapi.problems(404, 422, 503),
        },
    )
    async def get_thumbnail(
        self,
        request: AnyRequest,
        services: Injected,
        image_id: FromPath[UUID],
        size: Annotated[
            str,
            QueryParameter(
                description="`small` (at most 256 pixels), `large` (640), or pixels: the smaller one that has as many."
            ),
        ] = "small",
    ) -> Response[Any]:
        """Made of the original where it is missing. Never larger than the image."""
        wanted = size_of(size)
        found = await services.thumbnails().get(await services.images().get(image_id), wanted)
        if isinstance(found, str):
            return _there(found, services)
        headers = {
            "ETag": f'"{hashlib.sha256(found).hexdigest()}"',
            "Cache-Control": _FOR_A_WEEK,
            "X-Content-Type-Options": "nosniff",
        }
        if is_known(request.headers, headers["ETag"]):
            return Response(None, status_code=304, headers=headers)
        return Response(found, media_type=CONTENT_TYPE, headers=headers)


def _there(url: str, services: Services) -> Response[Any]:
    """Remembered for half the life of the URL: each is another one, under which a cache has nothing."""
    headers = {"Cache-Control": f"private, max-age={services.presign_seconds // 2}"}
    return Redirect(url, status_code=307, headers=headers)


async def _file(request: AnyRequest, services: Services, image: Image, headers: Mapping[str, str]) -> Response[Any]:
    objects, key, size = services.objects(), original_key(image.id), image.bytes
    headers = {**headers, "Accept-Ranges": "bytes"}
    if request.method == "HEAD":
        await anext(objects.get(key, 0, 0), b"")  # tells a missing one
        return Stream(iter(()), media_type=image.content_type, headers={**headers, "Content-Length": str(size)})
    part = wanted_range(request.headers, headers["ETag"], size)
    start, length = part or (0, size)
    if part and not length:
        return problem(416, "invalid-request", f"The file has {size} bytes.", {"Content-Range": f"bytes */{size}"})
    headers["Content-Length"] = str(length)
    if part:
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
    # The first chunk is read before the answer begins, so that a missing object is an error, not half an answer.
    chunks = objects.get(key, start, length)
    first = await anext(chunks, b"")
    status = 206 if part else 200
    return Stream(_rest(first, chunks), status_code=status, media_type=image.content_type, headers=headers)


async def _rest(first: bytes, chunks: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(chunks):  # also when the client leaves halfway
        yield first
        async for chunk in chunks:
            yield chunk
