"""Who may come in: anyone on an open server, else the holders of a key."""

import hmac
import ipaddress
from collections.abc import Sequence
from typing import Any

from litestar.connection import ASGIConnection
from litestar.datastructures import Headers
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from imgsim.adapters.http.sessions import COOKIE, Sessions
from imgsim.core.errors import Forbidden, Unauthorized

_HARMLESS = {"GET", "HEAD", "OPTIONS"}


def api_key_guard(keys: Sequence[str], loopback_only: bool) -> Guard:
    """``Authorization: Bearer KEY``, ``X-API-Key: KEY`` or the cookie of a session; handlers with
    ``opt={"open": True}`` need none.

    Without keys all may come in, `loopback_only` under a name of loopback only.
    """
    wanted = [key.encode() for key in keys]
    sessions = Sessions(keys)

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if not wanted:
            _refuse_other_sites(connection, loopback_only)
            return
        if handler.opt.get("open"):
            return
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = connection.headers.get("x-api-key", "")
        # Every key is compared, so that the time says nothing about which one was close.
        if sum(hmac.compare_digest(given.strip().encode(), key) for key in wanted):
            return
        if not sessions.holds(connection.cookies.get(COOKIE, "")):
            raise Unauthorized("Send an API key: Authorization: Bearer KEY, or X-API-Key: KEY; or sign in at the page.")
        # A browser sends the cookie by itself, whoever made it ask.
        if connection.scope.get("method") not in _HARMLESS and _is_of_other_origin(connection.headers):
            raise Forbidden("Signed in by a cookie, pages of other sites cannot change anything here; send an API key.")

    return guard


def _refuse_other_sites(connection: ASGIConnection[Any, Any, Any, Any], loopback_only: bool) -> None:
    """An open server must not take orders from any web page its user happens to visit."""
    headers = connection.headers
    # A page whose name was made to point here (DNS rebinding) asks under that name.
    if loopback_only and _is_public_name(headers.get("host", "")):
        raise Forbidden("Without API keys, this server answers to localhost only (auth.keys, auth.allow_open).")
    if connection.scope.get("method") not in _HARMLESS and _is_of_other_site(headers):
        raise Forbidden("Without API keys, pages of other sites cannot change anything here.")


def _is_public_name(host: str) -> bool:
    """A name that somebody else could point here: addresses and names without a dot are none."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return "." in name.rstrip(".") and not name.lower().endswith(".localhost")
    return False


def _is_of_other_site(headers: Headers) -> bool:
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "cross-site"
    # Browsers do not send it to plain HTTP beyond loopback; there the origin has to be this host.
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


def _is_of_other_origin(headers: Headers) -> bool:
    """Stricter: SameSite lets a cookie go from other ports and subdomains of the same site, too."""
    return _is_of_other_site(headers) or headers.get("sec-fetch-site") == "same-site"
