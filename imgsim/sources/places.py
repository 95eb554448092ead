"""One file by what a list or a table says of it: a path, or a URL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from imgsim.core.errors import Forbidden, InvalidRequest
from imgsim.sources.files import file_item
from imgsim.sources.source import Item, Reach, Spool


def item_at(place: str, folder: Path | None, reach: Reach, must_be: bool = True, **known: Any) -> Item:
    """The file at `place`: http(s):// or s3:// URL, or path, relative to `folder`. `known`: what else an Item has."""
    scheme = place[:8].partition("://")[0].lower() if "://" in place[:8] else ""
    if scheme in ("http", "https"):
        return _url_item(place, partial(_fetched, place, reach), known)
    if scheme == "s3":
        return _url_item(place, partial(_object, place, reach, must_be), known)
    if not reach.files:
        raise Forbidden("Paths are not read by a server: it must not give its own files to clients. Use URLs.")
    return file_item((folder or Path()) / place, reach, must_be, **known)


def _url_item(url: str, open_it: Any, known: dict[str, Any]) -> Item:
    known["metadata"] = {"url": url, **known.get("metadata", {})}
    try:
        path = urlsplit(url).path
    except ValueError as error:  # brackets that hold no address
        raise InvalidRequest(f"This is no URL: {url[:200]!r}.") from error
    known["filename"] = known.get("filename") or unquote(path.rpartition("/")[2], errors="replace")
    return Item(url, open_it, **known)


@asynccontextmanager
async def _fetched(url: str, reach: Reach) -> AsyncIterator[BinaryIO]:
    async with reach.fetch(url) as file:
        yield file


@asynccontextmanager
async def _object(url: str, reach: Reach, must_be: bool) -> AsyncIterator[BinaryIO]:
    spool = Spool(reach, must_be)
    with spool.file:
        async with aclosing(reach.buckets.get(allowed(url, reach))) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(spool.write, chunk)
        yield spool.end()


def allowed(url: str, reach: Reach) -> str:
    """`url` with the endpoint and region of the setting that lets it be read. ``Forbidden``."""
    if reach.s3 is None:
        return url
    for each in reach.s3:
        beginning, _, where = each.partition("?")
        # Nothing that some server might read as the end of the key, or as a way out of the prefix.
        plain = not set("?#") & set(url) and not {".", ".."} & set(url.split("/"))
        if plain and f"{url}/".startswith(beginning.rstrip("/") + "/"):
            return f"{url}?{where}" if where else url
    raise Forbidden(
        f"{url[:200]!r} is not below a prefix that this server reads for clients (imports.s3, which names the endpoint "
        "too)."
    )
