"""Errors as RFC 9457 problem details, with a stable ``type`` and never a stack trace."""

import logging
import math
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from imgsim.core.errors import (
    BrokenImage,
    EmbeddingFailed,
    ImageNotFound,
    ImgsimError,
    InvalidRequest,
    NotSearchable,
    ObjectNotFound,
    TextNotSupported,
    TooLarge,
    TooManyPixels,
    Unauthorized,
    Unavailable,
    UnsupportedImage,
    WrongState,
)

log = logging.getLogger("imgsim.http")

STATUS_OF_ERROR: dict[type[ImgsimError], int] = {
    InvalidRequest: 400,
    Unauthorized: 401,
    ImageNotFound: 404,
    ObjectNotFound: 404,
    NotSearchable: 409,
    WrongState: 409,
    TooLarge: 413,
    UnsupportedImage: 415,
    BrokenImage: 422,
    EmbeddingFailed: 422,
    TextNotSupported: 422,
    TooManyPixels: 422,
    Unavailable: 503,
}
"""The one map from error to HTTP status; children count as their parent, all others are a 500."""

_TYPE_OF_STATUS = {400: "invalid-request", 404: "not-found", 405: "method-not-allowed", 413: "too-large"}


def problem(
    status: int, code: str, detail: str, headers: dict[str, str] | None = None, **extra: Any
) -> Response[dict[str, Any]]:
    """`code` is what stands behind ``urn:imgsim:error:`` in ``type``."""
    body = {
        "type": f"urn:imgsim:error:{code}",
        "title": code.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        **extra,
    }
    return Response(body, status_code=status, headers=headers, media_type="application/problem+json")


def _imgsim_error(request: Request[Any, Any, Any], error: ImgsimError) -> Response[Any]:
    status = next((STATUS_OF_ERROR[kind] for kind in type(error).__mro__ if kind in STATUS_OF_ERROR), 500)
    if status == 500:
        return _unexpected(request, error)
    headers = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return problem(status, error.code, error.message, headers)


def _http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    if error.status_code >= 500:
        return _unexpected(request, error)
    code = _TYPE_OF_STATUS.get(error.status_code, "invalid-request")
    extra = {"errors": error.extra} if error.extra else {}
    detail = error.detail
    if error.status_code == 404 and code == "not-found":
        detail = f"There is nothing at {request.url.path}."
    return problem(error.status_code, code, detail, dict(error.headers or {}), **extra)


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "internal", "Something went wrong in the server; its log says more.")


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    ImgsimError: _imgsim_error,
    HTTPException: _http_exception,
    Exception: _unexpected,
}
