"""The conversation with an embedder process: requests out, checked answers or imgsim's errors back."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
import numpy as np

from imgsim.adapters.embedding import wire
from imgsim.core.errors import EmbeddingFailed, ImgsimError, Overloaded, TextNotSupported, Unavailable
from imgsim.core.models import Vectors
from imgsim.settings import mask_url

_SECONDS_TO_DESCRIBE = 1.5  # /ready gives a part 2
_KEEPALIVE_SECONDS = 2.0  # below the 5 after which imgsim's server closes an idle connection
_MOST_KEPT = 16
_LARGEST_MESSAGE = 65_536
_LONGEST_DETAIL = 500
_ERROR = "urn:imgsim:error:"
_VERDICTS = {413, 415, 422}
"""Statuses that say something about what was sent; all others say something about the service."""


class _Problem(msgspec.Struct):
    type: str
    detail: str


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class EncodeClient:
    """Asks the ``/encode`` below `url`, with one or several processes behind it. A context manager.

    `timeout_seconds` is for one request as a whole. A connection that was closed under a request is no
    failure yet: the request is sent once more, as it can be repeated.
    """

    def __init__(self, url: str, api_key: str, timeout_seconds: float) -> None:
        self._url = f"{url.rstrip('/')}/encode"
        self._name = f"The embedder at {mask_url(url)}"
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_seconds = timeout_seconds

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(
            headers=self._headers,
            timeout=None,  # each request has one for all of it
            trust_env=False,
            verify=httpx.create_ssl_context(),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=_MOST_KEPT, keepalive_expiry=_KEEPALIVE_SECONDS
            ),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def describe(self) -> wire.Description:
        """The model that is served. ``Unavailable`` as well where something else answers."""
        answer = await self._ask("GET", _SECONDS_TO_DESCRIBE, _LARGEST_MESSAGE)
        try:
            return msgspec.json.decode(answer.body, type=wire.Description)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unavailable(f"{self._name} does not say which model it has; is it imgsim embedder?") from error

    async def embed_pixels(self, body: bytes, count: int, model: wire.Description, urgent: bool = False) -> Vectors:
        """``(count, dimensions)`` float32 for the `count` packed pictures of `body`.

        ``EmbeddingFailed`` when the embedder refuses one of them, ``Overloaded``.
        """
        return await self._embed(body, wire.PIXELS, count, model, wire.URGENT if urgent else {})

    async def embed_texts(self, texts: Sequence[str], model: wire.Description) -> Vectors:
        """As ``embed_pixels``; also ``TextNotSupported``."""
        return await self._embed(msgspec.json.encode({"text": texts}), "application/json", len(texts), model)

    async def _embed(
        self, body: bytes, media_type: str, count: int, model: wire.Description, extra: Mapping[str, str] | None = None
    ) -> Vectors:
        headers = {"Content-Type": media_type, "Accept": wire.VECTORS, **(extra or {})}
        size = count * model.dimensions * 4
        answer = await self._ask("POST", self._timeout_seconds, max(size, _LARGEST_MESSAGE), body, headers)
        served = answer.headers.get(wire.MODEL_HEADER, ""), answer.headers.get(wire.PREPROCESSING_HEADER, "")
        self._check_model(*served, model)
        if len(answer.body) != size:
            raise Unavailable(f"{self._name} gave {len(answer.body)} bytes where {count} vectors have {size}.")
        rows = np.frombuffer(answer.body, "<f4").astype(np.float32).reshape(count, model.dimensions)
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
        if not (np.abs(lengths - 1) < 1e-3).all():
            raise Unavailable(f"{self._name} gave a vector that is not of unit length.")
        return rows

    def check_model(self, served: wire.Description, model: wire.Description) -> None:
        """``Unavailable`` unless `served` is `model`, in any precision: vectors of two models cannot be compared."""
        self._check_model(served.model, served.preprocessing, model)

    def _check_model(self, name: str, preprocessing: str, model: wire.Description) -> None:
        same_steps = wire.without_precision(preprocessing) == wire.without_precision(model.preprocessing)
        if name != model.model or not same_steps:
            raise Unavailable(
                f"{self._name} now serves the model {name[:200] or '(none)'} ({preprocessing[:200]}), but this process "
                f"began with {model.model} ({model.preprocessing}): restart it to change over, or start the embedder "
                "with the former model."
            )

    async def _ask(
        self, method: str, seconds: float, most_bytes: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> _Answer:
        """The answer, of status 200 and at most `most_bytes`. Raises what other statuses mean."""
        request = self._client.build_request(method, self._url, content=body, headers=headers)
        try:
            async with asyncio.timeout(seconds):
                try:
                    answer = await self._send(request, most_bytes)
                except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                    answer = await self._send(request, most_bytes)
        except TimeoutError as error:
            raise Unavailable(
                f"{self._name} gave no answer within {seconds:g} s (embedder.timeout_seconds)."
            ) from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise Unavailable(f"{self._name} cannot be reached: {str(error) or type(error).__name__}.") from error
        if answer.status != 200:
            raise self._refusal(answer)
        return answer

    async def _send(self, request: httpx.Request, most_bytes: int) -> _Answer:
        response = await self._client.send(request, stream=True)
        try:
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > most_bytes:
                    raise Unavailable(f"{self._name} gave more than the {most_bytes} bytes that an answer can have.")
            return _Answer(response.status_code, response.headers, bytes(body))
        finally:
            await response.aclose()

    def _refusal(self, answer: _Answer) -> ImgsimError:
        try:
            problem = msgspec.json.decode(answer.body, type=_Problem)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            problem = _Problem("", "")
        code = problem.type.removeprefix(_ERROR) if problem.type.startswith(_ERROR) else ""
        detail = problem.detail[:_LONGEST_DETAIL]
        if answer.status in (401, 403):
            return Unavailable(f"{self._name} does not let this process in (embedder.api_key). {detail}".strip())
        if code == TextNotSupported.code:
            return TextNotSupported(detail)
        if answer.status == 503:
            later = _retry_after(answer.headers)
            return (
                Overloaded(detail, later) if code == Overloaded.code else Unavailable(f"{self._name}: {detail}", later)
            )
        if code and answer.status in _VERDICTS:
            return EmbeddingFailed(detail)
        return Unavailable(f"{self._name} answered with the status {answer.status}. {detail}".strip())


def _retry_after(headers: Mapping[str, Any]) -> float:
    """Seconds, at most a minute."""
    given = str(headers.get("Retry-After", ""))
    return float(min(int(given), 60)) if given.isascii() and given.isdigit() and len(given) < 9 else 5.0
