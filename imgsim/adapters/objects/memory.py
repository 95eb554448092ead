"""Objects in a dict: for tests."""

from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from typing import BinaryIO, Self

from imgsim.adapters.objects import CHUNK_BYTES, check_key, check_prefix, check_range
from imgsim.core.errors import ObjectNotFound
from imgsim.core.models import ObjectInfo, PresignedPut


class MemoryObjectStore:
    """Lives as long as the instance: closing and opening it again keeps the objects."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, datetime]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Nothing to close."""

    async def ping(self) -> None:
        """Always there."""

    async def put(self, key: str, source: BinaryIO, content_type: str, durable: bool = True) -> int:
        check_key(key)
        source.seek(0)
        content = source.read()
        self._objects[key] = (content, datetime.now(UTC))
        return len(content)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        check_key(key)
        check_range(start, length)
        if key not in self._objects:
            raise ObjectNotFound(f"No object has the key {key}.")
        content, _ = self._objects[key]
        end = len(content) if length is None else min(start + length, len(content))
        for offset in range(start, end, CHUNK_BYTES):
            yield content[offset : min(offset + CHUNK_BYTES, end)]

    async def presign_get(self, key: str, seconds: int, filename: str, download: bool = False) -> str | None:
        return None

    async def presign_put(
        self, key: str, seconds: int, content_type: str, size: int, sha256: str
    ) -> PresignedPut | None:
        return None

    async def delete(self, key: str) -> None:
        check_key(key)
        self._objects.pop(key, None)

    async def exists(self, key: str) -> bool:
        check_key(key)
        return key in self._objects

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        check_prefix(prefix)
        for key, (content, modified_at) in tuple(self._objects.items()):
            if key.startswith(prefix):
                yield ObjectInfo(key, len(content), modified_at)
