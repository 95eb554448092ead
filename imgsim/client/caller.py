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


def path_of(image_id: Id) -> str:
    return f"/images/{quote(str(image_id), safe='')}"
