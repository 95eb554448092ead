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
}
_ASK_AGAIN = "no-cache"
_FOR_EVER = "public, max-age=31536000, immutable"
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


@dataclass(frozen=True, slots=True)
class _Web:
    version: str
    """Of all files together. It stands in their address, as ``/web/VERSION/app.js``."""
    files: Mapping[str, _File]


@cache
def _web() -> _Web:
    """Read once, with the first request."""
    contents = {each.name: each.read_bytes() for each in files("imgsim.adapters.http").joinpath("web").iterdir()}
    version = _digest(b"".join(contents[name] for name in sorted(contents)))
    contents["index.html"] = contents["index.html"].replace(b'"/web/', f'"/web/{version}/'.encode())
    return _Web(
        version,
        {
            name: _File(content, media_type, f'"{_digest(content)}"')
            for name, content in contents.items()
            if (media_type := _MEDIA_TYPES.get(name.rpartition(".")[2]))
        },
    )


def _takes_no_html(request: AnyRequest) -> bool:
    try:
        return request.accept.best_match(["text/html", "application/json"]) == "application/json"
    except (ValueError, OverflowError):  # a quality that is no number
        return False


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]


class PageController(Controller):
    """Open: there is no data in it. What it shows it asks of the API, which wants a key or a session."""

    opt = {"open": True}
    include_in_schema = False

    @get("/")
    async def page(self, request: AnyRequest, services: Injected) -> Response[Any]:
        """For clients that take no HTML: where what is."""
        if _takes_no_html(request):
            return Response(_FOR_PROGRAMS, headers={"Vary": "Accept"})
        origin = await _origin_of_images(services.objects())
        policy = _POLICY.format(images=f" {origin}" if origin else "")
        headers = {"Content-Security-Policy": policy, "Cache-Control": _ASK_AGAIN, "Vary": "Accept"}
        return _answer(request, _web().files["index.html"], headers)

    @get("/web/{version:str}/{name:str}")
    async def file(self, request: AnyRequest, version: FromPath[str], name: FromPath[str]) -> Response[Any]:
        """Kept by browsers for ever. Amid an upgrade a process may be asked for a version that it does not have:
        it gives its own, for this once."""
        file = _web().files.get(name)
        if file is None:
            raise NotFoundException
        caching = _FOR_EVER if version == _web().version else _ASK_AGAIN
        return _answer(request, file, {"Content-Security-Policy": "default-src 'none'", "Cache-Control": caching})


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
