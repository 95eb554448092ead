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
    FetchFailed,
    Forbidden,
    GroupNotFound,
    ImageNotFound,
    ImgsimError,
    ImportNotFound,
    InvalidRequest,
    NoPresignedUploads,
    NotSearchable,
    NotUploaded,
    ObjectNotFound,
    TextNotSupported,
    TooLarge,
    TooManyPixels,
    Unauthorized,
    Unavailable,
    UnsupportedImage,
    UploadMismatch,
    WrongState,
)

log = logging.getLogger("imgsim.http")

STATUS_OF_ERROR: dict[type[ImgsimError], int] = {
    InvalidRequest: 400,
    Unauthorized: 401,
    Forbidden: 403,
    ImageNotFound: 404,
    GroupNotFound: 404,
    ImportNotFound: 404,
    ObjectNotFound: 404,
    NotSearchable: 409,
    WrongState: 409,
    NoPresignedUploads: 409,
    NotUploaded: 409,
    TooLarge: 413,
    UnsupportedImage: 415,
    BrokenImage: 422,
    EmbeddingFailed: 422,
    FetchFailed: 422,
    TextNotSupported: 422,
    TooManyPixels: 422,
    UploadMismatch: 422,
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
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return problem(404, code, f"There is nothing at {request.url.path}.", headers)
    if error.status_code == 405:
        allowed = headers.get("allow", "none")
        return problem(405, code, f"{request.method} is not allowed here; there are: {allowed}.", headers)
    if error.status_code == 413:
        return problem(413, code, "The body has more bytes than any request may have (upload.max_bytes).", headers)
    if wrong := _wrong_parameters(error):
        detail = "; ".join(f"{each['key']}: {each['message']}" for each in wrong)
        return problem(error.status_code, code, f"The parameters do not fit: {detail}.", headers, errors=wrong)
    return problem(error.status_code, code, error.detail, headers)


def _wrong_parameters(error: HTTPException) -> list[dict[str, str]]:
    """Litestar's findings, under the names that the parameters have outside."""
    found = error.extra if isinstance(error.extra, list) else []
    return [{**each, "key": each.get("key", "request").removeprefix("image_")} for each in found]


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "internal", "Something went wrong in the server; its log says more.")


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    ImgsimError: _imgsim_error,
    HTTPException: _http_exception,
    Exception: _unexpected,
}
