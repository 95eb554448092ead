"""``/encode``: the embedding service."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, BinaryIO

import msgspec
import numpy as np
from litestar import Response, get, post
from litestar.status_codes import HTTP_200_OK

from imgsim.adapters.embedding import wire
from imgsim.adapters.http import openapi
from imgsim.adapters.http.bodies import AnyRequest, media_type, read_bytes, read_form, read_json, read_raw
from imgsim.adapters.http.services import Injected, Services
from imgsim.core.errors import ImgsimError, InvalidRequest
from imgsim.core.models import Picture, Vectors

_AT_ONCE = 8

Source = AbstractAsyncContextManager[BinaryIO]
"""The file of one image, once it is entered."""


class EncodeBody(msgspec.Struct, forbid_unknown_fields=True):
    text: str | list[str] | None = None
    url: str | list[str] | None = None


@get("/encode", tags=["encode"], summary="The model that computes embeddings", responses=openapi.problems(503))
async def describe(services: Injected) -> wire.Description:
    """Its id with the weights revision, how pictures are prepared for it, and what it can do."""
    embedder = services.embedder()
    return wire.Description(
        embedder.model_id, embedder.dimensions, embedder.preprocessing, embedder.input_size, embedder.supports_text
    )


@post(
    "/encode",
    status_code=HTTP_200_OK,
    tags=["encode"],
    summary="The embedding of images or texts",
    operation_class=openapi.encode_body(EncodeBody),
    responses={200: openapi.answer(openapi.Encoded, "In the order sent"), **openapi.problems(413, 415, 422, 503)},
)
async def encode(request: AnyRequest, services: Injected) -> Response[Any]:
    """A raw image as body, multipart with `file` (1 to 64), or JSON with `text` or `url` (one, or a list of up to 64).

    Vectors have unit length. One gives `embedding`, several give `embeddings`, in the order sent. With
    `Accept: application/octet-stream` the answer is raw little-endian float32, row after row. Images with
    the header `Priority: u=0` (to 2, RFC 9218) go before what others have sent.
    """
    kind = media_type(request)
    urgent = wire.is_urgent(request.headers.get("priority", ""))
    if kind == "application/json":
        return await _by_json(request, services, urgent)
    if kind == "multipart/form-data":
        async with read_form(request, services.max_upload_bytes, wire.MOST_ITEMS) as form:
            form.only(set())
            if not form.files:
                raise InvalidRequest(f"The form has no file in the field 'file' (1 to {wire.MOST_ITEMS}).")
            files = [nullcontext(upload.file) for upload in form.files]
            vectors = await _embed(services, files, "File", urgent)
        return _answer(request, services, vectors, len(vectors) == 1)
    if kind == wire.PIXELS:
        body = await read_bytes(request, wire.LARGEST_BODY, "The body")
        embedder = services.embedder()
        pictures = wire.unpack(body, wire.longest_side(embedder.input_size))
        return _answer(request, services, await embedder.embed_images(pictures, urgent), len(pictures) == 1)
    async with read_raw(request, services.max_upload_bytes) as file:
        picture = (await services.reader().inspect(file, urgent)).picture
    return _answer(request, services, await services.embedder().embed_images([picture], urgent), True)


async def _by_json(request: AnyRequest, services: Services, urgent: bool) -> Response[Any]:
    body = await read_json(request, EncodeBody)
    if (body.text is None) == (body.url is None):
        raise InvalidRequest("The JSON body needs 'text' or 'url', one of them.")
    if body.text is not None:
        texts = _several(body.text, "texts")
        vectors = await services.embedder().embed_texts(texts)
        return _answer(request, services, vectors, isinstance(body.text, str))
    sources = [services.fetcher().fetch(url) for url in _several(body.url or "", "URLs")]
    return _answer(request, services, await _embed(services, sources, "URL", urgent), isinstance(body.url, str))


def _several(given: str | list[str], what: str) -> list[str]:
    values = [given] if isinstance(given, str) else given
    if not 1 <= len(values) <= wire.MOST_ITEMS:
        raise InvalidRequest(f"One request takes 1 to {wire.MOST_ITEMS} {what}, not {len(values)}.")
    return values


async def _embed(services: Services, sources: Sequence[Source], what: str, urgent: bool) -> Vectors:
    """Some at a time: pictures are many times larger than their files, so not all are held at once."""
    groups = []
    for start in range(0, len(sources), _AT_ONCE):
        reading = (_read(services, source, urgent) for source in sources[start : start + _AT_ONCE])
        found = await asyncio.gather(*reading, return_exceptions=True)  # all are over before the files close
        pictures = [_picture(each, f"{what} {n} of {len(sources)}") for n, each in enumerate(found, start + 1)]
        groups.append(await services.embedder().embed_images(pictures, urgent))
    return np.concatenate(groups)


async def _read(services: Services, source: Source, urgent: bool) -> Picture:
    async with source as file:
        return (await services.reader().inspect(file, urgent)).picture


def _picture(found: Picture | BaseException, which: str) -> Picture:
    """Raises what the reader raised, and says of which of several."""
    if isinstance(found, ImgsimError) and not which.endswith(" 1 of 1"):
        raise type(found)(f"{which}: {found.message}") from found
    if isinstance(found, BaseException):
        raise found
    return found


def _answer(request: AnyRequest, services: Services, vectors: Vectors, single: bool) -> Response[Any]:
    embedder = services.embedder()
    headers = {
        wire.MODEL_HEADER: embedder.model_id,
        wire.PREPROCESSING_HEADER: embedder.preprocessing,
        "X-Imgsim-Dimensions": str(embedder.dimensions),
    }
    if wire.VECTORS in request.headers.get("accept", ""):
        raw = np.ascontiguousarray(vectors, "<f4").tobytes()
        return Response(raw, media_type=wire.VECTORS, headers=headers)
    body: dict[str, Any] = {"model": embedder.model_id, "dimensions": embedder.dimensions}
    body |= {"embedding": vectors[0].tolist()} if single else {"embeddings": vectors.tolist()}
    return Response(body, headers=headers)
