"""Object stores by URL scheme, and the keys that all of them take."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from imgsim.core.errors import InvalidRequest, SettingsError
from imgsim.core.ports import ObjectStore
from imgsim.settings import Settings

CHUNK_BYTES = 1 << 20
"""The most that one chunk of a get holds, and that a put reads at a time."""

TEMPORARY = "tmp"
"""No key begins with this folder: a store on disk writes there first."""

_PART = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]{1,255}"  # 255 bytes: the longest file name nearly everywhere
_KEY = re.compile(f"{_PART}(?:/{_PART})*")
_MAX_KEY = 1024  # bytes; S3's limit


def is_key(text: str) -> bool:
    """Whether every store can take `text` as a key."""
    return len(text) <= _MAX_KEY and _KEY.fullmatch(text) is not None and text.split("/", 1)[0] != TEMPORARY


def check_key(key: str) -> None:
    """``InvalidRequest`` for a key that not every store can take."""
    if not is_key(key):
        raise InvalidRequest(
            f"The object key {key[:_MAX_KEY]!r} cannot be used: it must be of parts of 1 to 255 of A-Z, a-z, 0-9, "
            f"'.', '_' and '-', separated by '/', none '.' or '..', the first not {TEMPORARY!r}, "
            f"with at most {_MAX_KEY} bytes in all."
        )


def check_prefix(prefix: str) -> None:
    """``InvalidRequest`` for what no key begins with; empty begins every key."""
    check_key(f"{prefix}x")


def check_range(start: int, length: int | None) -> None:
    """``InvalidRequest`` for a negative range."""
    if start < 0 or (length is not None and length < 0):
        raise InvalidRequest(f"A range of {length} bytes from offset {start} cannot be read.")


def content_disposition(filename: str, download: bool) -> str:
    """The header by which a browser shows a file, or saves it."""
    kind = "attachment" if download else "inline"
    return f"{kind}; filename*=UTF-8''{quote(filename, safe='')}" if filename else kind


def _file(settings: Settings) -> ObjectStore:
    from imgsim.adapters.objects.file import FileObjectStore

    url = settings.part_url("objects")
    root = Path(url.removeprefix("file://"))  # as it stands, not percent-decoded
    if not root.is_absolute():
        raise SettingsError(f"The setting objects.url must be file:///absolute/folder (got {url!r}).")
    return FileObjectStore(root)


def _memory(settings: Settings) -> ObjectStore:
    from imgsim.adapters.objects.memory import MemoryObjectStore

    return MemoryObjectStore()


def _s3(settings: Settings) -> ObjectStore:
    from imgsim.adapters.objects.s3 import S3ObjectStore
    from imgsim.adapters.objects.s3_location import S3Location, check_endpoint

    location = S3Location.parse(settings.part_url("objects"))
    return S3ObjectStore(location, check_endpoint("objects.public_endpoint", settings.objects.public_endpoint))


OBJECT_STORES: Mapping[str, Callable[[Settings], ObjectStore]] = {"file": _file, "s3": _s3, "memory": _memory}
"""What makes the store that the settings describe, by the scheme of ``objects.url``."""
