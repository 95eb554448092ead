"""Requests to one server: sent again where that may help, and never without end."""

import json
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypedDict, TypeVar

import httpx
import msgspec
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from imgsim.client.errors import ClientError, local_error, no_answer, refusal
from imgsim.client.exchange import Exchange
from imgsim.core.errors import InvalidRequest

T = TypeVar("T")

AGAIN = (429, 502, 503, 504)
"""The statuses of a server that may take the same request later."""

CUT = (httpx.ConnectTimeout, httpx.NetworkError, httpx.RemoteProtocolError)
"""A connection that was not made, or broke. A server that is silent for `timeout` is not asked again."""

_GATEWAYS = (502, 504)
"""Of these, what stands between knows not what the server did."""

_backoff = wait_exponential(multiplier=0.5, max=8.0) + wait_random(0, 0.5)
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request. ``params`` and ``data`` may hold lists: the name is repeated."""

    method: str
    path: str
    params: Mapping[str, Any] | None = None
    json: Any = None
    data: Mapping[str, Any] | None = None
    files: Sequence[tuple[str, Any]] | None = None
    headers: Mapping[str, str] | None = None
    patient: bool = True
    """Whether to try again; else the first answer is the answer."""
    timeout: float | None = None
    """Seconds, where it is not the client's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that was read to its end."""

    response: httpx.Response
    unheard: bool
    """Whether an attempt before may have done it all the same: its answer was lost, or a gateway's."""
    seconds: float
    """Since the first attempt began."""

    def decode(self, kind: type[T]) -> T:
        """The JSON body; fields that `kind` does not know are passed over."""
        try:
            return msgspec.json.decode(self.response.content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            detail = f"What answers at {self.response.request.url} is no imgsim server: {error}."
            raise local_error(InvalidRequest, detail, self.response.status_code) from error

    def refusal(self) -> ClientError:
        return refusal(self.response)

    @property
    def began_at(self) -> datetime:
        """When the first attempt began, by the server's clock, which is told in whole seconds."""
        try:
            now = parsedate_to_datetime(self.response.headers.get("Date", ""))
        except ValueError:
            now = datetime.now(UTC)
        return datetime.fromtimestamp(now.timestamp() - self.seconds - 1, UTC)


class Connection:
    def __init__(self, exchange: Exchange, retries: int) -> None:
        self.exchange = exchange
        self._retries = retries

    @property
    def url(self) -> str:
        return str(self.exchange.http.base_url)

    async def call(self, call: Call, *allowed: int) -> Answer:
        """The answer of a status below 400, or one of the `allowed`. ``ClientError``."""
        answer = await self._repeated(call, self.exchange.read)
        if answer.response.status_code >= 400 and answer.response.status_code not in allowed:
            raise answer.refusal()
        return answer

    async def receive(self, call: Call, take: Callable[[httpx.Response], Awaitable[object]]) -> None:
        """Have the body of a good answer taken by `take`, from its beginning once more where it breaks off."""
        answer = await self._repeated(call, take, follow_redirects=True)
        if not answer.response.is_success:
            raise answer.refusal()

    async def lines(self, call: Call) -> AsyncGenerator[str, None]:
        """The lines of a good answer, up to where it ends or breaks off."""

        async def leave(response: httpx.Response) -> None:
            """To be read here."""

        answer = await self._repeated(call, leave, close=False)
        try:
            if not answer.response.is_success:
                raise answer.refusal()
            rest = b""
            async with aclosing(self.exchange.chunks(answer.response)) as chunks:
                async for chunk in chunks:
                    *lines, rest = (rest + chunk).split(b"\n")  # httpx splits at U+2028, too, which JSON may have
                    for line in lines:
                        yield line.removesuffix(b"\r").decode()
        except (*CUT, httpx.ReadTimeout):
            return
        finally:
            await self.exchange.release(answer.response)

    async def _repeated(
        self,
        call: Call,
        take: Callable[[httpx.Response], Awaitable[object]],
        follow_redirects: bool = False,
        close: bool = True,
    ) -> Answer:
        """Send `call` until there is an answer; `take` gets a good one, which is closed then, if it is to `close`."""
        began, unheard = time.monotonic(), 0

        async def attempt() -> httpx.Response:
            nonlocal unheard
            unheard += 1
            response = await self.exchange.open(self._request(call), follow_redirects)
            left_open = False
            try:
                await (take(response) if response.is_success else self.exchange.read(response))
                left_open = response.is_success and not close
            finally:
                if not left_open:
                    await self.exchange.release(response)
            unheard -= response.status_code not in _GATEWAYS
            return response

        repeat = AsyncRetrying(
            sleep=self.exchange.sleep,
            stop=stop_after_attempt(1 + (self._retries if call.patient else 0)),
            wait=_pause,
            retry=retry_if_exception_type(CUT) | retry_if_result(lambda response: response.status_code in AGAIN),
            retry_error_callback=_last,
        )
        try:
            response: httpx.Response = await repeat(attempt)
        except httpx.HTTPError as error:
            raise no_answer(self.url, error) from error
        return Answer(response, unheard > 0, time.monotonic() - began)

    def _request(self, call: Call) -> httpx.Request:
        return self.exchange.http.build_request(
            call.method,
            call.path,
            params=call.params,
            json=call.json,
            data=dict(call.data) if call.data else None,
            files=list(call.files) if call.files else None,
            headers=call.headers,
            timeout=httpx.USE_CLIENT_DEFAULT if call.timeout is None else call.timeout,
        )


def _pause(state: RetryCallState) -> float:
    """Seconds before the next attempt: what the server asks for (up to a minute), else doubled each time."""
    outcome = state.outcome
    if outcome is not None and not outcome.failed:
        asked = _retry_after(outcome.result())
        if asked is not None:
            return asked
    return _backoff(state)


def _retry_after(response: httpx.Response) -> float | None:
    """RFC 9110, 10.2.3: seconds or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _LONGEST_PAUSE)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    return min(max(until.timestamp() - time.time(), 0.0), _LONGEST_PAUSE)


def _last(state: RetryCallState) -> Any:
    """What the last attempt gave or raised."""
    assert state.outcome is not None
    return state.outcome.result()


class Options(TypedDict):
    base_url: httpx.URL
    headers: dict[str, str]
    timeout: float


def options(url: str, api_key: str | None, timeout: float) -> Options:
    """What httpx needs. Raises ``ClientError`` where `url` is none."""
    key = _key_of_environment() if api_key is None else api_key
    try:
        base = httpx.URL(url if "://" in url else f"http://{url}")
    except httpx.InvalidURL as error:
        raise local_error(InvalidRequest, f"{url!r} is no URL of a server: {error}.") from error
    if base.scheme not in ("http", "https") or not base.host:
        raise local_error(InvalidRequest, f"{url!r} is no URL of a server: it must be http(s)://host[:port].")
    return {"base_url": base, "headers": {"Authorization": f"Bearer {key}"} if key else {}, "timeout": timeout}


def _key_of_environment() -> str:
    """The first of ``IMGSIM_AUTH__KEYS``, as the server reads it: ``a,b`` or a JSON list."""
    text = os.environ.get("IMGSIM_AUTH__KEYS", "").strip()
    try:
        keys = json.loads(text) if text.startswith("[") else text.split(",")
    except ValueError as error:
        raise local_error(
            InvalidRequest, f"IMGSIM_AUTH__KEYS begins like a JSON list, but is none: {error}."
        ) from error
    return str(keys[0]).strip() if keys else ""
