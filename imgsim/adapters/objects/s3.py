"""Objects in a bucket that speaks S3: AWS, MinIO, SeaweedFS."""

from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, BinaryIO, Self

from botocore.exceptions import BotoCoreError, ClientError

from imgsim.adapters.objects import CHUNK_BYTES, check_key, check_prefix, check_range, content_disposition, is_key
from imgsim.adapters.objects.s3_client import connect, open_session, region_of
from imgsim.adapters.objects.s3_errors import CALL_SECONDS, http_status, translated
from imgsim.adapters.objects.s3_location import S3Location
from imgsim.adapters.objects.s3_room import Room
from imgsim.adapters.objects.s3_upload import upload
from imgsim.core.errors import ObjectNotFound, SettingsError
from imgsim.core.models import ObjectInfo, PresignedPut

_LAST_BYTE = (1 << 62) - 1  # what servers still read as a number; no object is that large
_LIST_PAGE = 1000  # S3's limit
_PING_SECONDS = 5.0
_ROOM_BYTES = 128 << 20  # for uploads on their way: 60 of 2 MB, or 4 large ones
_ROOM_SECONDS = 5.0


class S3ObjectStore:
    """Keys begin with the prefix of `location`; presigned URLs name `public_endpoint`, where there is one.

    The bucket is made when it is missing. Every upload carries the SHA-256 of what it brings, as a signed
    header that the server checks. Those on their way share 128 MiB of memory: where that stays full for 5 s,
    ``put`` raises ``Overloaded``. A process that is killed while it stores an object in parts leaves parts
    behind, which nobody sees: let a lifecycle rule (``AbortIncompleteMultipartUpload``) remove them.
    """

    def __init__(self, location: S3Location, public_endpoint: str = "") -> None:
        self._location = location
        self._bucket = location.bucket
        self._public_endpoint = public_endpoint
        self._room = Room(_ROOM_BYTES, _ROOM_SECONDS)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            try:
                session = await open_session()
                self._region = region_of(self._location, session)
                self._client = await opening.enter_async_context(
                    connect(session, self._location.endpoint, self._region)
                )
                self._signer = self._client
                if self._public_endpoint and self._public_endpoint != self._location.endpoint:
                    self._signer = await opening.enter_async_context(
                        connect(session, self._public_endpoint, self._region)
                    )
            except (BotoCoreError, ValueError) as error:
                raise SettingsError(f"The S3 settings cannot be used: {error}") from error
            async with self._translated():
                await self._ensure_bucket()
            self._opened = opening.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._opened.aclose()

    async def ping(self) -> None:
        async with self._translated(seconds=_PING_SECONDS):
            await self._check_bucket()

    async def put(self, key: str, source: BinaryIO, content_type: str, durable: bool = True) -> int:
        target = self._object(key)
        async with self._translated(key, seconds=None):  # a large object takes its time
            return await upload(self._client, target, content_type, source, self._room)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        target = self._object(key)
        check_range(start, length)
        if length == 0:  # which S3 has no range for
            if not await self.exists(key):
                raise ObjectNotFound(f"No object has the key {key}.")
            return
        async with self._translated(key):
            try:
                response = await self._client.get_object(**target, **_range(start, length))
            except ClientError as error:
                if http_status(error) != 416:
                    raise
                return  # the range begins past the end
        body = response["Body"]
        async with body:  # closes the connection where the reader leaves early
            while chunk := await self._read(key, body):
                yield chunk

    async def presign_get(self, key: str, seconds: int, filename: str, download: bool = False) -> str | None:
        disposition = content_disposition(filename, download)
        target = {**self._object(key), "ResponseContentDisposition": disposition}
        return await self._presign("get_object", target, seconds)

    async def presign_put(
        self, key: str, seconds: int, content_type: str, size: int, sha256: str
    ) -> PresignedPut | None:
        """While the object is there, a second request is refused. SeaweedFS checks everything, old releases of
        MinIO not the digest: look at what was stored."""
        checksum = b64encode(bytes.fromhex(sha256)).decode()
        signed = {"ContentType": content_type, "ContentLength": size, "ChecksumSHA256": checksum, "IfNoneMatch": "*"}
        url = await self._presign("put_object", {**self._object(key), **signed}, seconds)
        headers = {
            "Content-Type": content_type,
            "Content-Length": str(size),
            "x-amz-checksum-sha256": checksum,
            "If-None-Match": "*",
        }
        return PresignedPut(url, headers)

    async def delete(self, key: str) -> None:
        target = self._object(key)
        async with self._translated(key):
            await self._client.delete_object(**target)

    async def exists(self, key: str) -> bool:
        target = self._object(key)
        async with self._translated(key):
            try:
                await self._client.head_object(**target)
            except ClientError as error:
                if http_status(error) != 404:
                    raise
                await self._check_bucket()  # a HEAD does not say which of the two is missing
                return False
        return True

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        check_prefix(prefix)
        own = self._location.prefix
        paginator = self._client.get_paginator("list_objects_v2")
        pages = aiter(
            paginator.paginate(Bucket=self._bucket, Prefix=own + prefix, PaginationConfig={"PageSize": _LIST_PAGE})
        )
        while page := await self._next_page(pages):
            for entry in page.get("Contents", ()):
                key = entry["Key"].removeprefix(own)
                if is_key(key):
                    yield ObjectInfo(key, entry["Size"], entry["LastModified"])

    def _translated(self, key: str = "", seconds: float | None = CALL_SECONDS) -> AbstractAsyncContextManager[None]:
        return translated(self._bucket, seconds, key)

    def _object(self, key: str) -> Mapping[str, Any]:
        check_key(key)
        return {"Bucket": self._bucket, "Key": self._location.prefix + key}

    async def _ensure_bucket(self) -> None:
        try:
            await self._check_bucket()
        except ClientError as error:
            if http_status(error) != 404:
                raise
            await self._make_bucket()

    async def _check_bucket(self) -> None:
        try:
            await self._client.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            if http_status(error) not in (400, 403):
                raise
            # A HEAD does not say why; a list does, and may be allowed below the prefix only.
            await self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._location.prefix, MaxKeys=1)

    async def _make_bucket(self) -> None:
        elsewhere = self._region != "us-east-1"  # which S3 refuses to be told
        where = {"CreateBucketConfiguration": {"LocationConstraint": self._region}} if elsewhere else {}
        try:
            await self._client.create_bucket(Bucket=self._bucket, **where)
        except ClientError as error:
            if http_status(error) != 409:
                raise
            # Another process is making it, or somebody else has a bucket of this name.
            waiter = self._client.get_waiter("bucket_exists")
            await waiter.wait(Bucket=self._bucket, WaiterConfig={"Delay": 1, "MaxAttempts": 10})
            await self._check_bucket()

    async def _presign(self, operation: str, parameters: Mapping[str, Any], seconds: int) -> str:
        async with self._translated():  # it may ask for new credentials
            url: str = await self._signer.generate_presigned_url(operation, Params=parameters, ExpiresIn=seconds)
        return url

    async def _read(self, key: str, body: Any) -> bytes:
        async with self._translated(key):
            chunk: bytes = await body.read(CHUNK_BYTES)
        return chunk

    async def _next_page(self, pages: AsyncIterator[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        async with self._translated():
            return await anext(pages, None)


def _range(start: int, length: int | None) -> Mapping[str, str]:
    if start == 0 and length is None:
        return {}
    last = "" if length is None else min(start + length - 1, _LAST_BYTE)
    return {"Range": f"bytes={min(start, _LAST_BYTE)}-{last}"}
