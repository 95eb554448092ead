"""The web page at ``/``: the files of the folder ``web``, under a policy that asks nothing of any other host."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from litestar import Controller, Response, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from imgsim import __version__
from imgsim.adapters.http.bodies import AnyRequest
from imgsim.adapters.http.caching import is_known
from imgsim.adapters.http.services import Injected
from imgsim.core.errors import ImgsimError
from imgsim.core.ports import ObjectStore

_MEDIA_TYPES = {
    "html": "text/html",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:{images}; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Asked for again each time, and answered with 304: right at once after an upgrade, whichever process answers.
    "Cache-Control": "no-cache",
}
_FOR_PROGRAMS = {
    "name": "imgsim",
    "version": __version__,
    "links": {"api": "/schema", "openapi": "/schema/openapi.json", "images": "/images", "ready": "/ready"},
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


@cache
def _web() -> Mapping[str, _File]:
    """By name. Read once, with the first request."""
    found = {}
    for each in files("imgsim.adapters.http").joinpath("web").iterdir():
        media_type = _MEDIA_TYPES.get(each.name.rpartition(".")[2])
        if media_type:
            content = each.read_bytes()
            found[each.name] = _File(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found


class PageController(Controller):
    """Open: there is no data in it. What it shows it asks of the API, which wants a key or a session."""

    opt = {"open": True}
    include_in_schema = False

    @get("/")
    async def page(self, request: AnyRequest, services: Injected) -> Response[Any]:
        """For clients that take no HTML: where what is."""
        if request.accept.best_match(["text/html", "application/json"]) == "application/json":
            return Response(_FOR_PROGRAMS, headers={"Vary": "Accept"})
        origin = await _origin_of_images(services.objects())
        policy = _POLICY.format(images=f" {origin}" if origin else "")
        return _answer(request, _web()["index.html"], {"Content-Security-Policy": policy, "Vary": "Accept"})

    @get("/web/{name:str}")
    async def file(self, request: AnyRequest, name: FromPath[str]) -> Response[Any]:
        file = _web().get(name)
        if file is None:
            raise NotFoundException
        return _answer(request, file, {"Content-Security-Policy": "default-src 'none'"})


def _answer(request: AnyRequest, file: _File, headers: Mapping[str, str]) -> Response[Any]:
    headers = {**_HEADERS, **headers, "ETag": file.etag}
    if is_known(request.headers, file.etag):
        return Response(None, status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


async def _origin_of_images(objects: ObjectStore) -> str:
    """Where files and thumbnails redirect to; nowhere where the store has no presigned URLs, or does not answer."""
    try:
        url = await objects.presign_get("page", 1, "")
    except ImgsimError:
        return ""
    parts = urlsplit(url or "")
    return f"{parts.scheme}://{parts.netloc}" if url else ""
