"""Buckets that a bulk import reads: any, by URL, with whatever keys they have."""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl

from imgsim.adapters.objects.s3_location import check_endpoint
from imgsim.core.errors import InvalidRequest, SettingsError, Unavailable

_URL = re.compile(
    r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([^\0]*?))?(?:\?((?:endpoint|region)=[^?]*))?", re.DOTALL
)
_CHUNK_BYTES = 1 << 18
_PAGE = 1000  # S3's limit


class _Place(NamedTuple):
    bucket: str
    key: str
    query: str
    endpoint: str
    region: str

    @classmethod
    def parse(cls, url: str) -> "_Place":
        """``InvalidRequest`` for what is no such URL."""
        found = _URL.fullmatch(url)
        if found is None:
            raise InvalidRequest(f"{url[:200]!r} is none of s3://bucket[/prefix][?endpoint=URL&region=NAME].")
        given = dict(parse_qsl(found[3] or "", keep_blank_values=True))
        if unknown := sorted(given.keys() - {"endpoint", "region"}):
            raise InvalidRequest(f"An s3 URL has no parameter {unknown[0][:80]!r}. Valid: endpoint, region.")
        try:
            endpoint = check_endpoint("source", given.get("endpoint", ""))
        except SettingsError as error:
            raise InvalidRequest(f"The endpoint in {url[:200]!r} must be http(s)://host[:port].") from error
        return cls(found[1], found[2] or "", f"?{found[3]}" if found[3] else "", endpoint, given.get("region", ""))


class S3Buckets:
    """``s3://bucket/prefix?endpoint=URL&region=NAME``; credentials, and what is left out, from the usual AWS variables.

    Reads only. A context manager, which closes the clients that it opened on demand.
    """

    async def __aenter__(self) -> Self:
        self._clients: dict[tuple[str, str], Any] = {}
        self._opening = asyncio.Lock()
        self._opened = AsyncExitStack()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._opened.aclose()

    async def list(self, url: str) -> AsyncGenerator[str, None]:
        """The URLs of the object with that key, and of all below it."""
        from imgsim.adapters.objects.s3_errors import CALL_SECONDS, translated

        place = _Place.parse(url)
        with _refusals():
            client = await self._opened_client(place.endpoint, place.region)
            options = {"Bucket": place.bucket, "Prefix": place.key, "PaginationConfig": {"PageSize": _PAGE}}
            pages = aiter(client.get_paginator("list_objects_v2").paginate(**options))
            while True:
                async with translated(place.bucket, CALL_SECONDS, place.key):
                    page = await anext(pages, None)
                if page is None:
                    return
                for entry in page.get("Contents", ()):
                    key = entry["Key"]
                    within = not place.key or place.key.endswith("/") or key[len(place.key) :].startswith("/")
                    if (within or key == place.key) and not key.endswith("/"):
                        yield f"s3://{place.bucket}/{key}{place.query}"

    async def get(self, url: str) -> AsyncGenerator[bytes, None]:
        place = _Place.parse(url)
        with _refusals():
            async with aclosing(self.read(place.bucket, place.key, place.endpoint, place.region)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def read(self, bucket: str, key: str, endpoint: str, region: str) -> AsyncGenerator[bytes, None]:
        """The object in chunks. ``ObjectNotFound``, ``SettingsError`` without credentials, ``InvalidRequest`` where
        the server refuses it and would again, else ``Unavailable``."""
        from imgsim.adapters.objects.s3_errors import CALL_SECONDS, translated

        client = await self._opened_client(endpoint, region)
        with _refusals():
            async with translated(bucket, CALL_SECONDS, key):
                response = await client.get_object(Bucket=bucket, Key=key)
        body = response["Body"]
        async with body:  # closes the connection where the reader leaves early
            while True:
                async with translated(bucket, CALL_SECONDS, key):
                    chunk: bytes = await body.read(_CHUNK_BYTES)
                if not chunk:
                    return
                yield chunk

    async def _opened_client(self, endpoint: str, region: str) -> Any:
        async with self._opening:
            if (endpoint, region) not in self._clients:
                self._clients[endpoint, region] = await self._open(endpoint, region)
        return self._clients[endpoint, region]

    async def _open(self, endpoint: str, region: str) -> Any:
        from botocore.exceptions import BotoCoreError

        # Here, not above: half a second, and most imports have no bucket.
        from imgsim.adapters.objects.s3_client import connect, open_session

        try:
            session = await open_session()
            region = region or session.region_name or "us-east-1"
            return await self._opened.enter_async_context(connect(session, endpoint, region))
        except (BotoCoreError, ValueError) as error:
            raise SettingsError(f"The bucket cannot be opened: {error}.") from error


@contextmanager
def _refusals() -> Iterator[None]:
    """What the server refuses, and what the settings lack, is ``InvalidRequest`` to whoever named the bucket."""
    try:
        yield
    except SettingsError as error:
        raise InvalidRequest(error.message) from error
    except Unavailable as error:
        from botocore.exceptions import ClientError

        from imgsim.adapters.objects.s3_errors import http_status

        if isinstance(error.__cause__, ClientError) and 300 <= http_status(error.__cause__) < 429:
            raise InvalidRequest(error.message) from error
        raise
