"""The errors of the Qdrant client as imgsim's."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from imgsim.adapters.vectors import model_of, no_collection
from imgsim.core.errors import ImgsimError, InvalidRequest, Overloaded, Unavailable


@contextmanager
def translated(collection: str = "") -> Iterator[None]:
    """The client's errors as imgsim's; `collection` is the one whose absence a 404 means."""
    try:
        yield
    except ResourceExhaustedResponse as error:
        raise Overloaded(f"Qdrant refused the call: {error}", retry_after=float(error.retry_after_s)) from error
    except UnexpectedResponse as error:
        raise _refusal(error, collection) from error
    except (ApiException, json.JSONDecodeError, TimeoutError, RuntimeError) as error:  # the last: a closed local client
        raise Unavailable(f"Qdrant cannot be reached: {_words(error)}") from error
    except ValueError as error:
        raise InvalidRequest(
            "The vector index cannot take this: a text is no valid Unicode or a number too large."
        ) from error


def _refusal(error: UnexpectedResponse, collection: str) -> ImgsimError:
    try:
        reason = str(error.structured()["status"]["error"])
    except (ValueError, KeyError, TypeError):  # an answer of something in between
        reason = error.reason_phrase
    if error.status_code == 404 and (model := model_of(collection)) is not None:
        return no_collection(model)
    if error.status_code in (401, 403):
        return Unavailable(f"Qdrant does not accept the setting vectors.api_key ({error.status_code}): {reason}")
    if error.status_code in (400, 413, 422):
        return InvalidRequest(f"Qdrant refused the call ({error.status_code}): {reason}")
    return Unavailable(f"Qdrant failed ({error.status_code}): {reason}")


def _words(error: Exception) -> str:
    cause = getattr(error, "source", error)  # of a ResponseHandlingException
    return str(cause) or type(cause).__name__
