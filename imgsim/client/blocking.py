"""The blocking client: the same calls, each run to its end."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from imgsim.client.calls import Calls
from imgsim.client.connection import options
from imgsim.client.exchange import Blocking, iterate, run

P = ParamSpec("P")
T = TypeVar("T")


def _run(call: Callable[Concatenate[Calls, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate["Client", P], T]:
    @wraps(call)
    def method(client: "Client", /, *arguments: P.args, **named: P.kwargs) -> T:
        return run(call(client._calls, *arguments, **named))

    return method


def _iterate(
    call: Callable[Concatenate[Calls, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate["Client", P], Iterator[T]]:
    @wraps(call)
    def method(client: "Client", /, *arguments: P.args, **named: P.kwargs) -> Iterator[T]:
        return iterate(call(client._calls, *arguments, **named))

    return method


class Client:
    """``AsyncClient`` without an event loop: its parameters, its methods, its errors. A context manager.

    Threads may share it.
    """

    def __init__(self, url: str, api_key: str | None = None, *, timeout: float = 60.0, retries: int = 4) -> None:
        self._calls = Calls(Blocking(httpx.Client(**options(url, api_key, timeout))), retries)

    upload = _run(Calls.upload)
    get = _run(Calls.get)
    vector = _run(Calls.vector)
    wait = _run(Calls.wait)
    list = _iterate(Calls.list)
    update = _run(Calls.update)
    delete = _run(Calls.delete)
    retry = _run(Calls.retry)
    similar = _run(Calls.similar)
    search = _run(Calls.search)
    encode = _run(Calls.encode)
    duplicates = _iterate(Calls.duplicates)
    dismiss = _run(Calls.dismiss)
    collections = _run(Calls.collections)
    start_import = _run(Calls.start_import)
    get_import = _run(Calls.get_import)
    wait_for_import = _run(Calls.wait_for_import)
    imports = _run(Calls.imports)
    stop_import = _run(Calls.stop_import)
    import_failures = _iterate(Calls.import_failures)
    download = _run(Calls.download)
    thumbnail = _run(Calls.thumbnail)
    events = _iterate(Calls.events)
    health = _run(Calls.health)
    ready = _run(Calls.ready)
    metrics = _run(Calls.metrics)
    close = _run(Calls.close)

    @property
    def url(self) -> str:
        return self._calls.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
