"""``/session``: a key once, then a cookie, so that a browser's images and event streams get in as well."""

import hmac
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

import msgspec
from litestar import Controller, Response, delete, get, post
from litestar.datastructures import Cookie
from litestar.status_codes import HTTP_204_NO_CONTENT

from imgsim.adapters.http import openapi
from imgsim.adapters.http.bodies import AnyRequest, media_type, parse_json, read_bytes, read_form
from imgsim.adapters.http.services import Injected
from imgsim.core.errors import InvalidRequest, Unauthorized

COOKIE = "imgsim_session"
_SECONDS = 30 * 24 * 3600
_LARGEST_BODY = 1 << 16


class SessionBody(msgspec.Struct, forbid_unknown_fields=True):
    key: str


class SessionState(msgspec.Struct):
    """Whether this server has keys, and whether the one who asks has come in by a session."""

    needs_key: bool
    signed_in: bool


class Sessions:
    """Tokens made of a key: ``EXPIRES.HMAC``. Nothing is kept, so every process with the keys knows them, and
    they end when their key is taken out of the settings."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def token(self, given: str) -> str:
        """A token for the bearer of a key. ``Unauthorized``."""
        known = [key for key in self._keys if hmac.compare_digest(given.strip().encode(), key)]
        if not known:
            raise Unauthorized("This is no key of this server (auth.keys).")
        expires = str(int(time.time()) + _SECONDS)
        return f"{expires}.{_signature(known[0], expires)}"

    def holds(self, token: str) -> bool:
        expires, _, signature = token.partition(".")
        # Every key is compared, as in the guard.
        fits = sum(hmac.compare_digest(signature.encode(), _signature(key, expires).encode()) for key in self._keys)
        return fits > 0 and int(expires) > time.time()


def _signature(key: bytes, expires: str) -> str:
    return hmac.digest(key, b"imgsim session until " + expires.encode(), "sha256").hex()


class SessionController(Controller):
    path = "/session"
    tags = ["session"]
    opt = {"open": True}

    @get("/", summary="Whether a key is needed, and whether you are signed in", responses=openapi.problems())
    async def show(self, request: AnyRequest, services: Injected) -> SessionState:
        signed_in = Sessions(services.api_keys).holds(request.cookies.get(COOKIE, ""))
        return SessionState(bool(services.api_keys), signed_in)

    @post(
        "/",
        status_code=HTTP_204_NO_CONTENT,
        summary="Sign a browser in",
        operation_class=openapi.json_body(SessionBody, {"key": "secret1"}),
        responses=openapi.problems(),
    )
    async def sign_in(self, request: AnyRequest, services: Injected) -> Response[None]:
        """Sets a cookie that opens the API for 30 days as the key does, for requests of this server's own pages.

        The body may be a form with the field `key` as well. A server without keys needs no session and sets none.
        """
        key = await _key(request)
        if not services.api_keys:
            return Response(None, status_code=HTTP_204_NO_CONTENT)
        return _with_cookie(request, Sessions(services.api_keys).token(key), _SECONDS)

    @delete("/", status_code=HTTP_204_NO_CONTENT, summary="Sign the browser out", responses=openapi.problems())
    async def sign_out(self, request: AnyRequest) -> Response[None]:
        return _with_cookie(request, "", 0)


async def _key(request: AnyRequest) -> str:
    kind = media_type(request)
    if kind == "multipart/form-data":
        async with read_form(request, _LARGEST_BODY) as form:
            form.only({"key"})
            return form.one("key")
    body = await read_bytes(request, _LARGEST_BODY, "The body")
    if kind == "application/x-www-form-urlencoded":
        try:
            return parse_qs(body.decode(), strict_parsing=True)["key"][0]
        except (KeyError, ValueError) as error:
            raise InvalidRequest("The form has no field 'key'.") from error
    return parse_json(body, SessionBody, "The body").key


def _with_cookie(request: AnyRequest, value: str, seconds: int) -> Response[Any]:
    # Behind a proxy that ends TLS the scheme here is http; the page's origin tells.
    secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
    cookie = Cookie(COOKIE, value=value, max_age=seconds, httponly=True, samesite="strict", secure=secure)
    return Response(None, status_code=HTTP_204_NO_CONTENT, cookies=[cookie])
