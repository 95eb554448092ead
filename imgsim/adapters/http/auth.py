"""Who may come in: anyone on an open server, else the holders of a key."""

import hmac
from collections.abc import Sequence
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from imgsim.core.errors import Unauthorized

_HARMLESS = {"GET", "HEAD", "OPTIONS"}


def api_key_guard(keys: Sequence[str]) -> Guard:
    """``Authorization: Bearer KEY`` or ``X-API-Key: KEY``; handlers with ``opt={"open": True}`` need none."""
    wanted = [key.encode() for key in keys]

    def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if not wanted:
            _refuse_other_sites(connection)
            return
        if handler.opt.get("open"):
            return
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = connection.headers.get("x-api-key", "")
        # Every key is compared, so that the time says nothing about which one was close.
        if sum(hmac.compare_digest(given.strip().encode(), key) for key in wanted) == 0:
            raise Unauthorized("Send an API key: Authorization: Bearer KEY, or X-API-Key: KEY.")

    return guard


def _refuse_other_sites(connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    """An open server on loopback must not take orders from any web page its user happens to visit."""
    if connection.scope.get("method") not in _HARMLESS and connection.headers.get("sec-fetch-site") == "cross-site":
        raise Unauthorized("Without API keys, pages of other sites cannot change anything here.")
