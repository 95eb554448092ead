"""The one client that fetches URLs which users send: public addresses only, and everything bounded.

An address is judged after the name is resolved, and the connection goes to that very address: nobody
can give one answer to the check and another to the connection (DNS rebinding). Redirects are new
requests, so they pass the same checks.
"""

import asyncio
import ipaddress
import socket
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import TracebackType
from typing import BinaryIO, Self, cast

import httpcore
import httpx

from imgsim import __version__
from imgsim.core.errors import FetchFailed, InvalidRequest, TooLarge, Unavailable

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses, as texts. ``OSError`` or ``ValueError`` where there are none."""

_IN_MEMORY = 1 << 20
_MOST_CONNECTIONS = 64
_SECONDS_TO_CONNECT = 3.0  # for each address: where one network has no way out, another may have
_RESOLVERS = 8  # threads: names that take long to resolve must not hold up those of the database and the like
_REDIRECTS = {301, 302, 303, 307, 308}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the IPv4 address in the last 32 bits
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291: all that is assigned so far
_NOT_HOSTS = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # Azure's WireServer, which gives virtual machines their secrets
            "192.0.0.0/24",  # RFC 6890, protocol assignments: Oracle's metadata, and addresses that the network answers
            "192.88.99.0/24",  # RFC 7526: relays from IPv4 to IPv6, given up
            "2001::/23",  # RFC 2928, protocol assignments: Teredo, which holds an IPv4 address, ORCHID and the like
            "3fff::/20",  # RFC 9637: documentation
        ),
    )
)
"""What ``is_global`` lets pass, always or in some releases of Python, and yet is no host on the internet."""
_HEADERS: Mapping[bytes | str, bytes | str] = {
    "Accept": "image/*, */*;q=0.1",
    "Accept-Encoding": "identity",
    "User-Agent": f"imgsim/{__version__}",
}


def is_public(text: str) -> bool:
    """Whether `text` is the address of a host on the internet; an IPv4 address inside an IPv6 one is what counts."""
    address = ipaddress.ip_address(text)
    if any(address in network for network in _NOT_HOSTS):
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    inner = address.ipv4_mapped or address.sixtofour
    if address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if inner is not None:
        return is_public(str(inner))
    return address.is_global and address in _GLOBAL_UNICAST


class UrlFetcher:
    """Fetches over http and https; a context manager that opens and closes its connections.

    `max_bytes` is the largest file, `timeout_seconds` the whole time for one, redirects included.
    `allow_private` lifts the rule about addresses and no other. `resolve` replaces the system's resolver.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        timeout_seconds: float,
        max_redirects: int,
        allow_private: bool,
        resolve: Resolve | None = None,
    ) -> None:
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds
        self._max_redirects = max_redirects
        self._allow_private = allow_private
        self._resolve = resolve or self._ask_system

    async def __aenter__(self) -> Self:
        self._resolvers = ThreadPoolExecutor(_RESOLVERS, "imgsim-resolve")
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=_MOST_CONNECTIONS,
            max_keepalive_connections=0,  # every request resolves, and is checked, anew
            network_backend=_CheckedBackend(self._resolve, self._allow_private),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.aclose()
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def fetch(self, url: str) -> AsyncGenerator[BinaryIO, None]:
        """What is at `url`, as a file at its start that lives as long as the context.

        ``InvalidRequest`` for a URL or an address that is not allowed, ``FetchFailed`` when its server does not
        give it, ``TooLarge``.
        """
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spooled:
            file = cast("BinaryIO", spooled)
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await self._download(url, file)
            except TimeoutError as error:
                raise FetchFailed(
                    f"The URL was not fetched within {self._timeout_seconds:g} s (fetch.timeout_seconds)."
                ) from error
            except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
                raise FetchFailed("The server of the URL cannot be reached, or does not speak HTTP(S).") from error
            file.seek(0)
            yield file

    async def _download(self, url: str, file: BinaryIO) -> None:
        target = _parse(url)
        for _ in range(self._max_redirects + 1):
            location = await self._request(target, file)
            if location is None:
                return
            target = _parse(location, target)
        raise InvalidRequest(
            f"The URL redirects more than {self._max_redirects} time{'s' * (self._max_redirects != 1)} "
            "(fetch.max_redirects)."
        )

    async def _request(self, url: httpx.URL, file: BinaryIO) -> str | None:
        """Write what `url` answers to `file`, or return where it redirects to."""
        async with self._pool.stream("GET", _wire(url), headers=_HEADERS) as response:
            headers = {name.lower(): value.decode(errors="replace") for name, value in response.headers}
            if response.status in _REDIRECTS and b"location" in headers:
                return headers[b"location"]
            if response.status != 200:
                raise FetchFailed(f"The server of the URL answered with the status {response.status}.")
            if headers.get(b"content-encoding", "identity").lower() != "identity":
                raise FetchFailed("The server of the URL compresses its answer, although it was asked not to.")
            size = int(headers.get(b"content-length", 0))
            if size <= self._max_bytes:
                size = 0
                async for chunk in response.aiter_stream():
                    size += len(chunk)
                    if size > self._max_bytes:
                        break
                    _write(file, chunk)
            if size > self._max_bytes:
                raise TooLarge(f"What is at the URL has more than {self._max_bytes} bytes (upload.max_bytes).")
        return None

    async def _ask_system(self, host: str, port: int) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._resolvers, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [str(address[0]) for *_, address in found]


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that it has checked. The name stays in ``Host``, and in TLS what is verified."""

    def __init__(self, resolve: Resolve, allow_private: bool) -> None:
        self._resolve = resolve
        self._allow_private = allow_private
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """To the first address of `host` that answers. ``InvalidRequest`` when any of them is not public."""
        try:
            addresses = list(dict.fromkeys(await self._resolve(host, port)))
        except (OSError, ValueError) as error:  # ValueError: a name that no resolver takes
            raise FetchFailed("The host of the URL is not known.") from error
        if not self._allow_private and not all(map(is_public, addresses)):
            raise InvalidRequest("The URL is not at a public address, and no others are fetched (fetch.allow_private).")
        refused: Exception = httpcore.ConnectError("no address")
        for address in addresses:
            try:
                return await self._backend.connect_tcp(
                    address, port, _SECONDS_TO_CONNECT, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                refused = error
        raise refused


def _parse(text: str, base: httpx.URL | None = None) -> httpx.URL:
    """`text`, relative to `base`, as a URL that may be asked. ``InvalidRequest``."""
    try:
        url = base.join(text) if base else httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidRequest(f"This is no URL: {text[:200]!r}.") from error
    if url.port is not None and not 0 < url.port < 65_536:
        raise InvalidRequest(f"There is no port {url.port}.")
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidRequest(f"Only http:// and https:// URLs are fetched, not {text[:200]!r}.")
    if url.userinfo:
        raise InvalidRequest("A URL with a user name or a password in it is not fetched.")
    return url


def _wire(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _write(file: BinaryIO, chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise Unavailable(f"What is at the URL cannot be kept while it comes in: {error.strerror}.") from error
