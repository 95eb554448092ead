"""What all calls stand on."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from imgsim.client.connection import Call, Connection
from imgsim.client.exchange import Exchange
from imgsim.client.models import Id

_PAGE = 100


class _Page(Protocol):
    @property
    def next_cursor(self) -> str | None: ...


P = TypeVar("P", bound=_Page)


class Caller:
    """Asks one server. All calls raise ``ClientError``."""

    def __init__(self, exchange: Exchange, retries: int) -> None:
        self._exchange = exchange
        self._connection = Connection(exchange, retries)

    @property
    def url(self) -> str:
        return self._connection.url

    async def _pages(self, path: str, query: Mapping[str, Any], kind: type[P]) -> AsyncGenerator[P, None]:
        cursor: dict[str, str] = {}
        while True:
            call = Call("GET", path, params={**query, "limit": _PAGE, **cursor})
            page = (await self._connection.call(call)).decode(kind)
            yield page
            if page.next_cursor is None:
                return
            cursor = {"cursor": page.next_cursor}

    async def _remove(self, call: Call) -> None:
        """Send `call`, of which a 404 says that there is nothing: also after an attempt of ours that went unheard."""
        answer = await self._connection.call(call, 404)
        if answer.response.status_code == 404 and not answer.unheard:
            raise answer.refusal()


def path_of(one: Id, kind: str = "images") -> str:
    return f"/{kind}/{quote(str(one), safe='')}"
