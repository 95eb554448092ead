"""What a client has already, and which part of the rest it asks for (RFC 9110, 13 and 14)."""

import re

from litestar.datastructures import Headers

_TAG = re.compile(r'(?:W/)?("[^"]*")')
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


def is_known(headers: Headers, etag: str) -> bool:
    """Whether ``If-None-Match`` names `etag`, weak or strong, or is ``*``."""
    known = ",".join(headers.getall("if-none-match", []))
    return known.strip() == "*" or etag in _TAG.findall(known)


def wanted_range(headers: Headers, etag: str, size: int) -> tuple[int, int] | None:
    """First byte and length of the one range that is asked for; a length of 0 where it begins past the end.

    None: all, which is also the answer to several ranges, to what is no range of bytes, and where ``If-Range`` is
    another tag.
    """
    asked = _RANGE.fullmatch(headers.get("range", "").strip())
    if asked is None or headers.get("if-range", etag) != etag:
        return None
    first, last, suffix = asked.groups()
    if suffix:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
    return start, max(0, end - start)
