"""What the object store on S3 promises beyond every store's promises, on a real server."""

import asyncio
import hashlib
import io
import json
import os
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import boto3
import httpx
import pytest

from imgsim.adapters.objects import OBJECT_STORES
from imgsim.adapters.objects.s3 import S3ObjectStore
from imgsim.adapters.objects.s3_location import S3Location, check_endpoint
from imgsim.adapters.objects.s3_upload import WHOLE_BYTES
from imgsim.core.errors import Overloaded, SettingsError, Unavailable
from imgsim.core.models import PresignedPut
from imgsim.core.ports import ObjectStore
from imgsim.settings import Objects, Settings
from tests.servers import SeaweedFS

MIB = 1 << 20
CONTENT = os.urandom(5000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def opened(url: str, public_endpoint: str = "") -> ObjectStore:
    return OBJECT_STORES["s3"](Settings(objects=Objects(url=url, public_endpoint=public_endpoint)))


def driver(server: SeaweedFS) -> Any:
    return boto3.client("s3", endpoint_url=server.endpoint)


async def put(store: ObjectStore, key: str, content: bytes) -> int:
    return await store.put(key, io.BytesIO(content), "image/png")


async def read(store: ObjectStore, key: str) -> bytes:
    return b"".join([chunk async for chunk in store.get(key)])


async def keys(store: ObjectStore) -> list[str]:
    return sorted([info.key async for info in store.list("")])


@pytest.fixture(scope="module", autouse=True)
def credentials(seaweedfs: SeaweedFS) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in seaweedfs.environment.items():
            patched.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def bucket(seaweedfs: SeaweedFS) -> str:
    return seaweedfs.new_bucket()


@pytest.fixture(scope="module")
async def opened_store(bucket: str) -> AsyncIterator[ObjectStore]:
    async with opened(bucket) as store:
        yield store


@pytest.fixture
async def store(opened_store: ObjectStore) -> AsyncIterator[ObjectStore]:
    """An empty one."""
    yield opened_store
    async for info in opened_store.list(""):
        await opened_store.delete(info.key)


@pytest.fixture(scope="module")
def own_server() -> Iterator[SeaweedFS]:
    """One that a test may stop, if it starts it again."""
    with SeaweedFS() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as client:
        yield client


# large objects


@pytest.mark.parametrize("size", [WHOLE_BYTES, WHOLE_BYTES + 1, 40 * MIB])
async def test_large_objects_come_back_as_they_went(
    store: ObjectStore, seaweedfs: SeaweedFS, bucket: str, size: int
) -> None:
    content = os.urandom(MIB) * (size // MIB) + b"x" * (size % MIB)
    assert await put(store, "a/large", content) == size
    digest = hashlib.sha256()
    async for chunk in store.get("a/large"):
        digest.update(chunk)
    assert digest.digest() == hashlib.sha256(content).digest()
    in_parts = "-" in driver(seaweedfs).head_object(Bucket=name_of(bucket), Key="a/large")["ETag"]
    assert in_parts == (size > WHOLE_BYTES)


class FailingSource(io.BytesIO):
    """Fails after two parts."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= 16 * MIB:
            raise OSError("the disk is gone")
        return super().read(size)


class BlockingSource(io.BytesIO):
    """Its third part waits for `go`."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.waiting, self.go = threading.Event(), threading.Event()

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= 16 * MIB:
            self.waiting.set()
            assert self.go.wait(10)
        return super().read(size)


async def test_a_put_that_fails_leaves_no_parts(store: ObjectStore, seaweedfs: SeaweedFS, bucket: str) -> None:
    with pytest.raises(OSError, match="disk is gone"):
        await store.put("a/large", FailingSource(bytes(40 * MIB)), "image/png")
    assert unfinished_uploads(seaweedfs, bucket) == []
    assert await keys(store) == []


async def test_a_cancelled_put_leaves_no_parts_and_has_left_its_source(
    store: ObjectStore, seaweedfs: SeaweedFS, bucket: str
) -> None:
    source = BlockingSource(bytes(40 * MIB))
    task = asyncio.create_task(store.put("a/large", source, "image/png"))
    await asyncio.to_thread(source.waiting.wait)
    assert len(unfinished_uploads(seaweedfs, bucket)) == 1
    task.cancel()
    await store.ping()  # many turns of the loop
    assert not task.done()
    source.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    source.close()
    assert unfinished_uploads(seaweedfs, bucket) == []
    assert await keys(store) == []


def unfinished_uploads(server: SeaweedFS, bucket: str) -> list[Any]:
    return list(driver(server).list_multipart_uploads(Bucket=name_of(bucket)).get("Uploads", []))


def name_of(bucket: str) -> str:
    return S3Location.parse(bucket).bucket


# the memory of uploads on their way


class CountingSource(io.BytesIO):
    """Knows what all of them have handed out."""

    read_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        CountingSource.read_bytes += len(content)
        return content


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """Its endpoint: it answers a HEAD, takes all else and says nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.readuntil(b"\r\n\r\n")).startswith(b"HEAD"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        while await reader.read(MIB):
            pass
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(("count", "size", "taken"), [(30, 10 * MIB, 12), (6, 40 * MIB, 4)], ids=["whole", "in parts"])
async def test_a_server_that_never_answers_does_not_fill_the_memory(count: int, size: int, taken: int) -> None:
    content = bytes(size)
    CountingSource.read_bytes = 0
    async with silent_server() as endpoint, opened(f"s3://slow?endpoint={endpoint}") as store:
        puts = [asyncio.create_task(store.put("a/b", CountingSource(content), "image/png")) for _ in range(count)]
        refused = [await each for each in asyncio.as_completed(map(failure, puts[taken:]), timeout=20)]
        assert {type(error) for error in refused} == {Overloaded}
        assert not any(put.done() for put in puts[:taken])
        assert CountingSource.read_bytes <= 128 * MIB
        for put in puts:
            put.cancel()
        await asyncio.gather(*puts, return_exceptions=True)
        assert isinstance(store, S3ObjectStore)
        async with store._room.taken(128 * MIB):
            """All of it is back."""


async def failure(task: asyncio.Task[int]) -> BaseException | None:
    await asyncio.wait([task])
    return task.exception()


# presigned requests


async def test_a_presigned_get_names_the_file_and_ends(store: ObjectStore, client: httpx.AsyncClient) -> None:
    await put(store, "a/b", CONTENT)
    url = await store.presign_get("a/b", 3, 'Grüße "1".png')
    assert url is not None
    answer = await client.get(url)
    assert answer.content == CONTENT
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == "inline; filename*=UTF-8''Gr%C3%BC%C3%9Fe%20%221%22.png"
    saved = await store.presign_get("a/b", 3, "cat.png", download=True)
    assert saved is not None
    assert (await client.get(saved)).headers["content-disposition"] == "attachment; filename*=UTF-8''cat.png"
    part = await client.get(url, headers={"Range": "bytes=10-19"})
    assert part.content == CONTENT[10:20]
    assert (await client.delete(url)).status_code == 403
    assert await eventually(client, "GET", url, {}, b"") == 403


async def test_a_presigned_put_stores_what_was_declared_once(store: ObjectStore, client: httpx.AsyncClient) -> None:
    request = await presigned_put(store)
    assert (await send(client, request, CONTENT)).status_code == 200
    assert await read(store, "a/b") == CONTENT
    assert (await send(client, request, CONTENT)).status_code == 412


@pytest.mark.parametrize(
    ("content", "changes"),
    [
        (os.urandom(5000), {}),
        (CONTENT + b"x", {}),
        (CONTENT[:-1], {}),
        (os.urandom(5000), {"x-amz-checksum-sha256": None}),
        (b"y" * 5000, {"x-amz-checksum-sha256": b64encode(hashlib.sha256(b"y" * 5000).digest()).decode()}),
        (CONTENT, {"Content-Type": "text/html"}),
        (CONTENT, {"If-None-Match": None}),
        (CONTENT, {"Content-Length": None, "Transfer-Encoding": "chunked"}),
    ],
    ids=["other-bytes", "longer", "shorter", "no-checksum", "own-checksum", "other-type", "repeatable", "no-length"],
)
async def test_a_presigned_put_stores_nothing_else(
    store: ObjectStore, client: httpx.AsyncClient, content: bytes, changes: dict[str, str | None]
) -> None:
    refused = await send(client, await presigned_put(store), content, changes)
    assert refused.status_code in (400, 403)
    assert await keys(store) == []


async def test_a_presigned_put_ends(store: ObjectStore, client: httpx.AsyncClient) -> None:
    request = await presigned_put(store, seconds=1)
    wrong = {**request.headers, "x-amz-meta-unsigned": "x"}  # refused, but as AccessDenied only when time is over
    assert await eventually(client, "PUT", request.url, wrong, bytes(5000)) == 403
    assert (await send(client, request, CONTENT)).status_code == 403
    assert await keys(store) == []


async def test_presigned_requests_name_the_public_endpoint(
    bucket: str, seaweedfs: SeaweedFS, client: httpx.AsyncClient
) -> None:
    public = seaweedfs.endpoint.replace("127.0.0.1", "localhost")
    async with opened(bucket, public) as store:
        request = await presigned_put(store)
        assert request.url.startswith(f"{public}/")
        assert (await send(client, request, CONTENT)).status_code == 200
        url = await store.presign_get("a/b", 60, "")
        assert url is not None
        assert url.startswith(f"{public}/")
        assert (await client.get(url)).content == CONTENT
        await store.delete("a/b")


async def presigned_put(store: ObjectStore, seconds: int = 60) -> PresignedPut:
    request = await store.presign_put("a/b", seconds, "image/png", len(CONTENT), DIGEST)
    assert request is not None
    return request


async def send(
    client: httpx.AsyncClient, request: PresignedPut, content: bytes, changes: dict[str, str | None] | None = None
) -> httpx.Response:
    wanted = {**request.headers, "Content-Length": str(len(content)), **(changes or {})}
    headers = {name: value for name, value in wanted.items() if value is not None}

    async def body() -> AsyncIterator[bytes]:
        yield content

    return await client.put(
        request.url, headers=headers, content=body() if "Content-Length" not in headers else content
    )


async def eventually(client: httpx.AsyncClient, method: str, url: str, headers: dict[str, str], content: bytes) -> int:
    """The status of the first answer that says that the time of `url` is over."""
    deadline = time.monotonic() + 10
    while "expired" not in (answer := await client.request(method, url, headers=headers, content=content)).text:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    return answer.status_code


# the bucket


async def test_many_make_one_bucket_at_once(seaweedfs: SeaweedFS) -> None:
    stores = [opened(url) for url in [seaweedfs.new_bucket()] * 4]
    await asyncio.gather(*(store.__aenter__() for store in stores))
    for number, store in enumerate(stores):
        await put(store, f"a/{number}", CONTENT)
    assert await keys(stores[0]) == ["a/0", "a/1", "a/2", "a/3"]
    await asyncio.gather(*(store.__aexit__(None, None, None) for store in stores))


async def test_a_prefix_is_a_store_of_its_own(bucket: str, store: ObjectStore) -> None:
    async with opened(bucket.replace("?", "/some/where?")) as below:
        await put(below, "a/b", CONTENT)
        assert await keys(below) == ["a/b"]
        assert await keys(store) == ["some/where/a/b"]
        assert await read(below, "a/b") == CONTENT
        assert not await store.exists("a/b")


async def test_a_bucket_that_is_gone_is_unavailable_not_empty(seaweedfs: SeaweedFS) -> None:
    url = seaweedfs.new_bucket()
    async with opened(url) as store:
        driver(seaweedfs).delete_bucket(Bucket=name_of(url))
        for call in (read(store, "a/b"), store.exists("a/b"), store.ping(), keys(store)):
            with pytest.raises(Unavailable, match="not there"):
                await call


async def test_a_bucket_that_may_not_be_made_or_read(own_server: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(own_server).create_bucket(Bucket="others")
    driver(own_server).create_bucket(Bucket="readable")
    allow_only(own_server, "reader", ["Read:readable", "List:readable"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    with pytest.raises(Unavailable, match=r"bucket others: .* s3:ListBucket"):
        await opened(own_server.bucket_url("others")).__aenter__()
    with pytest.raises(Unavailable, match=r"bucket absent: .* (s3:CreateBucket|s3:ListBucket)"):
        await opened(own_server.bucket_url("absent")).__aenter__()
    async with opened(own_server.bucket_url("readable")) as store:
        assert await keys(store) == []
        with pytest.raises(Unavailable, match="s3:PutObject"):
            await put(store, "a/b", CONTENT)
        with pytest.raises(Unavailable, match="s3:PutObject"):
            await put(store, "a/b", bytes(WHOLE_BYTES + 1))


def allow_only(server: SeaweedFS, access_key: str, actions: list[str]) -> None:
    """Another identity, after a restart."""
    identities = server.folder / "s3.json"
    known = json.loads(identities.read_text())["identities"]
    reader = {
        "name": access_key,
        "credentials": [{"accessKey": access_key, "secretKey": SeaweedFS.SECRET_KEY}],
        "actions": actions,
    }
    identities.write_text(json.dumps({"identities": [*known, reader]}))
    server.restart()


# when it cannot be reached


async def test_a_killed_server_is_unavailable_and_comes_back(own_server: SeaweedFS) -> None:
    async with opened(own_server.new_bucket()) as store:
        await put(store, "a/b", CONTENT)
        own_server.kill()
        begun = time.monotonic()
        outcomes = await asyncio.gather(
            store.ping(),
            put(store, "a/c", CONTENT),
            put(store, "a/c", bytes(WHOLE_BYTES + 1)),
            read(store, "a/b"),
            store.exists("a/b"),
            store.delete("a/b"),
            keys(store),
            return_exceptions=True,
        )
        assert time.monotonic() - begun < 10
        assert {type(outcome) for outcome in outcomes} == {Unavailable}
        assert all("cannot be reached" in str(outcome) for outcome in outcomes)
        assert await store.presign_get("a/b", 60, "") is not None  # which needs no server
        own_server.start()
        await until_it_answers(store)
        assert await read(store, "a/b") == CONTENT
        assert await keys(store) == ["a/b"]


async def test_a_server_killed_while_it_is_read(own_server: SeaweedFS) -> None:
    async with opened(own_server.new_bucket()) as store:
        await put(store, "a/b", bytes(40 * MIB))
        stream = store.get("a/b")
        await anext(stream)
        own_server.kill()
        with pytest.raises(Unavailable):
            async for _ in stream:
                pass
    own_server.start()


async def test_a_server_that_is_not_there_at_the_start(own_server: SeaweedFS) -> None:
    own_server.kill()
    store = opened(own_server.new_bucket())
    with pytest.raises(Unavailable, match="cannot be reached"):
        await store.__aenter__()
    own_server.start()
    async with store:
        await until_it_answers(store)


async def until_it_answers(store: ObjectStore) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            await put(store, "probe", b"x")
            return await store.delete("probe")
        except Unavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("AWS_SECRET_ACCESS_KEY", "not-the-secret", "secret key is not the one"),
        ("AWS_ACCESS_KEY_ID", "nobody", "does not know the access key"),
    ],
)
async def test_wrong_credentials(
    bucket: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Unavailable, match=reason) as caught:
        await opened(bucket).__aenter__()
    for secret in (value, SeaweedFS.ACCESS_KEY, SeaweedFS.SECRET_KEY):
        assert secret not in str(caught.value)


# settings


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("s3://bucket", S3Location("bucket")),
        ("s3://bucket/", S3Location("bucket")),
        ("s3://bucket/a/b/", S3Location("bucket", "a/b/")),
        (
            "s3://bucket/a?endpoint=http://minio:9000/&region=eu-1",
            S3Location("bucket", "a/", "http://minio:9000", "eu-1"),
        ),
        ("s3://bucket?endpoint=https://[::1]:9000", S3Location("bucket", "", "https://[::1]:9000")),
    ],
)
def test_urls(url: str, location: S3Location) -> None:
    assert S3Location.parse(url) == location


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://", "bucket"),
        ("s3://Bucket", "'Bucket'"),
        ("s3://bu", "3 to 63"),
        ("s3://bucket/a b", "prefix"),
        ("s3://bucket/a//b", "prefix"),
        ("s3://bucket/a#b", "prefix"),
        ("s3://bucket?endpont=http://minio:9000", "'endpont'. Valid: endpoint, region"),
        ("s3://bucket?endpoint=minio:9000", "http"),
        ("s3://bucket?endpoint=http://minio:90000", "http"),
        ("s3://bucket?endpoint=http://minio/path", "http"),
        ("s3://bucket?region=somewhere%20else", "region"),
        ("s3://key:se/cret@bucket", "AWS_SECRET_ACCESS_KEY"),
        ("s3://bucket?endpoint=http://key:secret@minio", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_urls_that_cannot_be_used(url: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        S3Location.parse(url)
    assert reason in str(caught.value)
    assert "cret" not in str(caught.value).replace("AWS_SECRET_ACCESS_KEY", "")


def test_public_endpoints() -> None:
    assert check_endpoint("objects.public_endpoint", "") == ""
    assert check_endpoint("objects.public_endpoint", "https://images.example.org/") == "https://images.example.org"
    with pytest.raises(SettingsError, match="public_endpoint"):
        check_endpoint("objects.public_endpoint", "images.example.org")


async def test_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SettingsError, match="AWS_ACCESS_KEY_ID"):
        await opened(bucket).__aenter__()
