"""``POST /encode``: the embedding service."""

import asyncio
from typing import Any

import msgspec
import numpy as np
from litestar import Response, post
from litestar.status_codes import HTTP_200_OK

from imgsim.adapters.http import openapi
from imgsim.adapters.http.bodies import AnyRequest, UploadedFile, media_type, read_form, read_json, read_raw
from imgsim.adapters.http.services import Injected, Services
from imgsim.core.errors import ImgsimError, InvalidRequest
from imgsim.core.models import Inspection, Picture, Vectors

_MOST_FILES = 64
_AT_ONCE = 8
_MOST_TEXTS = 64


class EncodeBody(msgspec.Struct, forbid_unknown_fields=True):
    text: str | list[str] | None = None
    url: str | None = None


@post(
    "/encode",
    status_code=HTTP_200_OK,
    tags=["encode"],
    summary="The embedding of images or texts",
    operation_class=openapi.encode_body(EncodeBody),
    responses={200: openapi.answer(openapi.Encoded, "In the order sent"), **openapi.problems(413, 415, 422, 503)},
)
async def encode(request: AnyRequest, services: Injected) -> Response[Any]:
    """A raw image as body, multipart with `file` (1 to 64), or JSON with `text`. Vectors have unit length.

    One gives `embedding`, several give `embeddings`, in the order sent. With
    `Accept: application/octet-stream` the answer is raw little-endian float32, row after row.
    """
    kind = media_type(request)
    if kind == "application/json":
        body = await read_json(request, EncodeBody)
        if body.text is None:
            raise InvalidRequest(
                "This server fetches no URLs; send the image itself." if body.url else "The JSON body needs 'text'."
            )
        texts = [body.text] if isinstance(body.text, str) else body.text
        if not 1 <= len(texts) <= _MOST_TEXTS:
            raise InvalidRequest(f"One request takes 1 to {_MOST_TEXTS} texts, not {len(texts)}.")
        return _answer(request, services, await services.embedder().embed_texts(texts), isinstance(body.text, str))
    if kind == "multipart/form-data":
        async with read_form(request, services.max_upload_bytes, _MOST_FILES) as form:
            form.only(set())
            if not form.files:
                raise InvalidRequest(f"The form has no file in the field 'file' (1 to {_MOST_FILES}).")
            groups = [await _embed(services, form.files, start) for start in range(0, len(form.files), _AT_ONCE)]
        return _answer(request, services, np.concatenate(groups), len(form.files) == 1)
    async with read_raw(request, services.max_upload_bytes) as file:
        picture = (await services.reader().inspect(file)).picture
    return _answer(request, services, await services.embedder().embed_images([picture]), True)


async def _embed(services: Services, files: list[UploadedFile], start: int) -> Vectors:
    """Some of `files`: pictures are many times larger than their files, so not all are held at once."""
    group = files[start : start + _AT_ONCE]
    reading = (services.reader().inspect(upload.file) for upload in group)
    found = await asyncio.gather(*reading, return_exceptions=True)  # all are over before the files close
    pictures = [_picture(each, number, len(files)) for number, each in enumerate(found, start + 1)]
    return await services.embedder().embed_images(pictures)


def _picture(found: Inspection | BaseException, number: int, of: int) -> Picture:
    """Raises what the reader raised, and says of which file."""
    if isinstance(found, ImgsimError) and of > 1:
        raise type(found)(f"File {number} of {of}: {found.message}") from found
    if isinstance(found, BaseException):
        raise found
    return found.picture


def _answer(request: AnyRequest, services: Services, vectors: Vectors, single: bool) -> Response[Any]:
    embedder = services.embedder()
    headers = {"X-Imgsim-Model": embedder.model_id, "X-Imgsim-Dimensions": str(embedder.dimensions)}
    if "application/octet-stream" in request.headers.get("accept", ""):
        raw = np.ascontiguousarray(vectors, "<f4").tobytes()
        return Response(raw, media_type="application/octet-stream", headers=headers)
    body: dict[str, Any] = {"model": embedder.model_id, "dimensions": embedder.dimensions}
    body |= {"embedding": vectors[0].tolist()} if single else {"embeddings": vectors.tolist()}
    return Response(body, headers=headers)
