"""The Python client against a real server, and through a proxy that breaks connections."""

import inspect
import io
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import PIL.Image
import pytest

from imgsim.client import AsyncClient, Client, ClientError, Image, ImageState, ImportState, NotFinished
from imgsim.client.connection import _retry_after
from imgsim.core.errors import ImageNotFound, InvalidRequest, UnsupportedImage, WrongState
from tests.processes import ImgsimServer
from tests.scripted import Request, ScriptedServer, answer

NEVER = {"host", "connection", "content-length", "transfer-encoding"}


@pytest.fixture
def client(server: ImgsimServer) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def collection() -> str:
    return f"client-{uuid4().hex[:8]}"


def forward(server: ImgsimServer, request: Request) -> bytes:
    headers = {name: value for name, value in request.headers.items() if name not in NEVER}
    got = httpx.request(request.method, server.url + request.path, headers=headers, content=request.body, timeout=30)
    kept = {name.replace("-", "_"): value for name, value in got.headers.items() if name not in NEVER}
    return answer(got.content, got.status_code, **kept)


def cutting(server: ImgsimServer, lost: int, method: str = "POST") -> ScriptedServer:
    """Forwards all to `server`, and loses the answers to the first `lost` requests of that `method`."""
    seen = itertools.count()

    def script(request: Request) -> Iterable[bytes]:
        told = forward(server, request)
        return [] if request.method == method and next(seen) < lost else [told]

    return ScriptedServer(script)


# what it does


def test_an_image_from_upload_to_delete(client: Client, collection: str, photos: list[Path], tmp_path: Path) -> None:
    image = client.upload(photos[0], collection=collection, tags=["a"], metadata={"n": 1}, wait=True, timeout=30)
    other = client.upload(photos[1].read_bytes(), filename="other.jpg", collection=collection, tags=["a", "b"])
    client.wait(other.id)

    assert (image.state, image.filename, image.duplicate) == (ImageState.DONE, photos[0].name, False)
    assert client.upload(photos[0], collection=collection).duplicate
    assert client.get(image.id).sha256 == image.sha256
    assert [each.id for each in client.list(collection=collection)] == [other.id, image.id]
    assert [each.id for each in client.list(collection=collection, tag="b")] == [other.id]
    assert [hit.image.id for hit in client.similar(image.id, limit=5).results] == [other.id]
    assert client.similar(image.id, tag=["a", "b"]).results[0].image.filename == "other.jpg"
    changed = client.update(image.id, tags=["c"])
    assert (changed.tags, changed.metadata) == (["c"], {"n": 1})
    assert client.download(image.id, tmp_path / "copy.jpg").read_bytes() == photos[0].read_bytes()
    assert [event.state for event in client.events(image.id)] == ["done"]
    with pytest.raises(WrongState):
        client.retry(image.id)
    client.delete(image.id)
    with pytest.raises(ImageNotFound) as gone:
        client.delete(image.id)
    assert isinstance(gone.value, ClientError)
    assert (gone.value.status, gone.value.type) == (404, "urn:imgsim:error:image-not-found")
    assert (gone.value.title, str(gone.value)) == ("Image not found", gone.value.detail)


def test_search_takes_all_kinds_of_sources_and_examples(client: Client, collection: str, photos: list[Path]) -> None:
    first, second = (client.upload(photo, collection=collection, wait=True) for photo in photos[:2])
    data = photos[0].read_bytes()
    reading, writing = os.pipe()

    def fill() -> None:
        with open(writing, "wb") as end:
            end.write(data)

    threading.Thread(target=fill).start()
    with open(reading, "rb") as pipe, photos[0].open("rb") as file:
        file.seek(100)
        for source in (str(photos[0]), data, io.BytesIO(data), file, pipe):
            best = client.search(source, collection=collection, limit=1, min_score=0.99).results
            assert [hit.image.id for hit in best] == [first.id]
        assert not file.closed

    found = client.search(positive=[first.id], negative=[str(second.id)], collection=collection)
    assert found.model == "efficientnet-lite0@1"
    with pytest.raises(ClientError, match="text") as refused:
        client.search(text="a banana")
    assert refused.value.type == "urn:imgsim:error:text-not-supported"


def test_embeddings_are_arrays_whatever_their_number(client: Client, collection: str, photos: list[Path]) -> None:
    image = client.upload(photos[0], collection=collection, wait=True)
    one, many = client.encode([photos[0]]), client.encode([photo.read_bytes() for photo in photos[:3]] * 22)

    assert (one.model, one.vectors.shape, one.vectors.dtype) == ("efficientnet-lite0@1", (1, 1280), np.float32)
    assert many.vectors.shape == (66, 1280)
    assert many.vectors[0] @ many.vectors[65 - 2] == pytest.approx(1, abs=1e-5)
    assert client.vector(image.id) @ one.vectors[0] == pytest.approx(1, abs=1e-4)
    with pytest.raises(InvalidRequest, match="at least one"):
        client.encode()


def test_a_list_goes_over_all_pages(client: Client, collection: str, photos: list[Path], server: ImgsimServer) -> None:
    uploaded = [client.upload(photo, collection=collection).id for photo in photos[:5]]
    pages = []

    def two_at_a_time(request: Request) -> list[bytes]:
        pages.append(request)
        return [forward(server, Request("GET", request.path.replace("limit=100", "limit=2"), request.headers))]

    with ScriptedServer(two_at_a_time) as proxy, Client(proxy.url) as paged:
        assert [image.id for image in paged.list(collection=collection)] == uploaded[::-1]
        images = paged.list(collection=collection)
        assert next(images).id == uploaded[-1]
    assert len(pages) == 4


def test_an_archive_is_imported_and_followed_to_its_end(client: Client, collection: str, photos: list[Path]) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.write(photos[0], "a.jpg")
        archive.write(photos[1], "b.jpg")
        archive.writestr("broken.jpg", photos[2].read_bytes()[:900])
    album = out.getvalue()
    ended = client.start_import(
        album, filename="album.zip", collection=collection, tags=["x", "y"], wait=True, timeout=60
    )
    assert (ended.state, ended.indexed, ended.failed, ended.tags) == (ImportState.DONE, 2, 1, ["x", "y"])
    assert [failure.source for failure in client.import_failures(ended.id)] == ["album.zip/broken.jpg"]
    assert client.get_import(ended.id) == ended
    assert ended in client.imports()
    assert client.stop_import(ended.id) == ended  # it is over
    assert collection in client.collections()
    with pytest.raises(ClientError, match=r"imports\.s3"):
        client.start_import(url="s3://somewhere/else")
    with pytest.raises(ClientError) as refused:
        client.get_import(uuid4())
    assert (refused.value.status, refused.value.type) == (404, "urn:imgsim:error:import-not-found")


def test_an_import_whose_answer_is_lost_is_not_begun_twice(
    server: ImgsimServer, collection: str, photos: list[Path]
) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.write(photos[0], "a.jpg")
    with cutting(server, 1) as proxy, Client(proxy.url) as client:
        with pytest.raises(ClientError):
            client.start_import(out.getvalue(), filename="lost.zip", collection=collection)
        (begun,) = [each for each in client.imports() if each.collection == collection]
        assert client.wait_for_import(begun.id, timeout=30).indexed == 1


def test_the_failures_of_an_import_are_all_told_or_none(
    server: ImgsimServer, client: Client, collection: str, photos: list[Path]
) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in ("a.jpg", "b\u2028.jpg"):
            archive.writestr(name, photos[0].read_bytes()[:900])
    ended = client.start_import(out.getvalue(), filename="album.zip", collection=collection, wait=True, timeout=60)
    seen = itertools.count()

    def breaking(request: Request) -> Iterable[bytes]:
        told = forward(server, request)
        return [told[:-10] if next(seen) == 0 else told]

    with ScriptedServer(breaking) as proxy, Client(proxy.url) as lossy:
        assert list(lossy.import_failures(ended.id)) == ended.failures
    assert len(ended.failures) == 2


def test_a_dismissal_whose_answer_is_lost_is_done(server: ImgsimServer, collection: str, photos: list[Path]) -> None:
    with cutting(server, 1, "POST") as proxy, Client(proxy.url) as lossy, Client(server.url) as client:
        half = io.BytesIO()
        with PIL.Image.open(photos[0]) as photo:
            photo.reduce(2).save(half, "JPEG")
        for data in (photos[0].read_bytes(), half.getvalue()):
            client.upload(data, filename="a.jpg", collection=collection, wait=True)
        (group,) = client.duplicates(collection=collection)
        lossy.dismiss(group.id, [image.id for image in group.images])
        assert list(client.duplicates(collection=collection)) == []
        with pytest.raises(ClientError) as gone:
            client.dismiss(group.id)
        assert gone.value.status == 404


def test_health_readiness_and_metrics(client: Client) -> None:
    assert client.health().status == "ok"
    ready = client.ready()
    assert ready.ready
    assert ready.checks["database"] == "ok"
    assert "imgsim_images" in client.metrics()


async def test_the_asynchronous_client_does_the_same(server: ImgsimServer, collection: str, photos: list[Path]) -> None:
    async with AsyncClient(server.url) as client:
        image = await client.upload(photos[0], collection=collection, wait=True)
        assert image.state is ImageState.DONE
        assert [each async for each in client.list(collection=collection)] == [await client.get(image.id)]
        assert [event.state async for event in client.events(image.id)] == ["done"]
        assert (await client.search(photos[0], collection=collection)).results[0].image.id == image.id
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.write(photos[1], "a.jpg")
        ended = await client.start_import(out.getvalue(), filename="album.zip", collection=collection, wait=True)
        assert (ended.state, ended.indexed) == (ImportState.DONE, 1)
        assert ended in await client.imports()
        assert [failure async for failure in client.import_failures(ended.id)] == []
        assert collection in await client.collections()
        await client.delete(image.id)
        with pytest.raises(ImageNotFound):
            await client.get(image.id)


def test_both_clients_have_the_same_calls() -> None:
    def calls(kind: type) -> dict[str, list[str]]:
        public = {name: each for name, each in inspect.getmembers(kind, callable) if not name.startswith("_")}
        return {name: [*inspect.signature(each).parameters] for name, each in public.items()}

    assert calls(Client) == calls(AsyncClient)
    assert all(Client.__dict__[name].__doc__ for name in ("upload", "events", "retry"))


def test_to_import_it_loads_nothing_of_the_server() -> None:
    code = "import sys, imgsim.client; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())

    assert {"httpx", "msgspec", "numpy", "imgsim"} <= loaded
    assert not loaded & {
        "litestar",
        "piccolo",
        "pydantic",
        "PIL",
        "qdrant_client",
        "uvicorn",
        "aioboto3",
        "onnxruntime",
    }


# what breaks


def test_an_upload_whose_answer_is_lost_is_no_duplicate(
    server: ImgsimServer, collection: str, photos: list[Path]
) -> None:
    with cutting(server, lost=1) as proxy, Client(proxy.url) as client, photos[0].open("rb") as file:
        image = client.upload(file, filename="cat.jpg", collection=collection, tags=["x", "x"], metadata={"n": [1]})
        assert (len(proxy.requests), image.duplicate) == (2, False)
        assert all(photos[0].read_bytes() in request.body for request in proxy.requests)
        assert client.upload(photos[0], collection=collection).duplicate


def test_an_upload_that_was_there_before_is_a_duplicate_although_answers_are_lost(
    server: ImgsimServer, collection: str, photos: list[Path]
) -> None:
    with Client(server.url) as direct:
        before = direct.upload(photos[0], collection=collection, wait=True)

    def script(request: Request) -> list[bytes]:
        """Half a minute later by the server's clock, which a test cannot wait for."""
        later = format_datetime(before.created_at + timedelta(seconds=30), usegmt=True).encode()
        told = re.sub(rb"date: [^\r]+", b"date: " + later, forward(server, request))
        return [told] if len(proxy.requests) > 1 else []

    with ScriptedServer(script) as proxy, Client(proxy.url) as client:
        assert client.upload(photos[0], collection=collection).duplicate
        assert len(proxy.requests) == 2


def test_a_delete_whose_answer_is_lost_is_done(server: ImgsimServer, collection: str, photos: list[Path]) -> None:
    with cutting(server, lost=1, method="DELETE") as proxy, Client(proxy.url) as client:
        image = client.upload(photos[0], collection=collection, wait=True)
        client.delete(image.id)
        with pytest.raises(ImageNotFound):
            client.get(image.id)


def test_what_was_never_there_is_not_deleted_by_a_server_that_was_busy_at_first(server: ImgsimServer) -> None:
    seen = itertools.count()

    def busy_at_first(request: Request) -> Iterable[bytes]:
        return [answer(status=503, retry_after="0") if next(seen) == 0 else forward(server, request)]

    with ScriptedServer(busy_at_first) as proxy, Client(proxy.url) as client, pytest.raises(ImageNotFound):
        client.delete(uuid4())


def test_it_gives_up_after_its_retries(server: ImgsimServer) -> None:
    with cutting(server, lost=9, method="GET") as proxy, Client(proxy.url, retries=1) as client:
        with pytest.raises(ClientError, match="gave no answer") as lost:
            client.get(uuid4())
        assert (len(proxy.requests), lost.value.status) == (2, None)


@pytest.mark.alone
@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_server_that_is_not_ready_is_asked_again_when_it_says(server: ImgsimServer, status: int) -> None:
    seen = itertools.count()

    def script(request: Request) -> list[bytes]:
        return [forward(server, request) if next(seen) == 3 else answer(status=status, retry_after="0")]

    with ScriptedServer(script) as proxy, Client(proxy.url) as client:
        began = time.monotonic()
        assert list(client.list(collection="nothing")) == []
        assert time.monotonic() - began < 1.5  # its own pauses would be 3.5 s together
        assert len(proxy.requests) == 4


def test_retry_after_is_seconds_or_a_date_and_bounded() -> None:
    def of(text: str) -> float | None:
        return _retry_after(httpx.Response(503, headers={"Retry-After": text}))

    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert of("7") == 7
    assert of("99999999999999") == 60
    assert of(soon) == pytest.approx(20, abs=2)
    assert of(format_datetime(datetime.now(UTC) - timedelta(days=1))) == 0
    assert of("soon") is of("") is None


def test_what_a_newer_server_adds_is_passed_over(server: ImgsimServer, collection: str, photos: list[Path]) -> None:
    with Client(server.url) as client:
        image = client.upload(photos[0], collection=collection, wait=True)

    def script(request: Request) -> list[bytes]:
        told = json.loads(forward(server, request).partition(b"\r\n\r\n")[2])
        told["error"] = {"stage": None, "type": "x", "message": "y", "attempts": 1, "hint": "new"}
        return [answer(json.dumps(told | {"colour": "red", "embedding": {**told["embedding"], "bits": 8}}).encode())]

    with ScriptedServer(script) as newer, Client(newer.url) as client:
        assert client.get(image.id).embedding == image.embedding


def test_a_wait_has_an_end(server: ImgsimServer, collection: str, photos: list[Path]) -> None:
    def script(request: Request) -> list[bytes]:
        return [forward(server, request).replace(b'"state":"done"', b'"state":"embedding"')]

    with Client(server.url) as client:
        done = client.upload(photos[0], collection=collection, wait=True)
    # The replaced word is longer: the length that was told must follow.
    with ScriptedServer(lambda request: [relength(script(request)[0])]) as proxy, Client(proxy.url) as client:
        with pytest.raises(NotFinished, match=f"{done.id} is still embedding after 0.2 s") as late:
            client.wait(done.id, timeout=0.2)
        assert isinstance(late.value, TimeoutError)


def relength(told: bytes) -> bytes:
    return answer(told.partition(b"\r\n\r\n")[2], content_type="application/json")


def test_events_go_on_where_they_broke_off() -> None:
    error = {"stage": "embed", "type": "timeout", "message": "one\u2028line", "attempts": 1}
    event = {"id": str(uuid4()), "collection": "c", "stage": None, "error": error, "at": "2026-01-01T00:00:00Z"}
    parts: list[list[tuple[str, str]]] = [[("1-0", "created"), ("2-0", "pending")], [("3-0", "done")]]

    def script(request: Request) -> Iterable[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: listening\r\n\r\n"
        for number, state in parts[len(server.requests) - 1]:
            told = json.dumps({**event, "state": state}, ensure_ascii=False)
            yield f"id: {number}\r\nevent: {state}\r\ndata: {told}\r\n\r\n".encode()
        yield b"event: done\r\ndata: {cut"

    with ScriptedServer(script) as server, Client(server.url) as client:
        events = client.events()
        assert [next(events).state for _ in range(3)] == ["created", "pending", "done"]
        assert [request.headers.get("last-event-id") for request in server.requests] == [None, "2-0"]


def test_a_download_that_breaks_off_begins_again_and_leaves_nothing_behind(tmp_path: Path) -> None:
    whole = bytes(range(256)) * 1000
    (target := tmp_path / "copy.jpg").write_bytes(b"old")

    def script(request: Request) -> list[bytes]:
        told = answer(whole)
        return [told if len(server.requests) == lost + 1 else told[: len(told) // 2]]

    with ScriptedServer(script) as server, Client(server.url, retries=1) as client:
        lost = 9
        with pytest.raises(ClientError, match="gave no answer"):
            client.download(uuid4(), target)
        assert target.read_bytes() == b"old"
        server.requests.clear()
        lost = 1
        assert client.download(uuid4(), target).read_bytes() == whole
    assert [each.name for each in tmp_path.iterdir()] == ["copy.jpg"]


def test_the_key_goes_to_the_server_and_not_to_where_it_redirects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGSIM_AUTH__KEYS", "first,second")
    with ScriptedServer(lambda request: [answer(b"bytes")]) as store:
        redirect = answer(status=307, location=f"{store.url}/presigned?X=1")
        with ScriptedServer(lambda request: [redirect]) as server:
            with Client(server.url) as client:
                client.thumbnail(uuid4(), tmp_path / "small.webp", size="small")
            with Client(server.url, "own") as client:
                client.download(uuid4(), tmp_path / "small.webp")
        assert [request.headers.get("authorization") for request in server.requests] == ["Bearer first", "Bearer own"]
        assert [request.headers.get("authorization") for request in store.requests] == [None, None]
        assert server.requests[0].path.endswith("/thumbnail?size=small")


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda url: Client("http://localhost:port"), "is no URL of a server"),
        (lambda url: Client("ftp://host"), "must be http"),
        (lambda url: Client(url).health(), "is no imgsim server"),
    ],
)
def test_what_is_no_server_is_said_to_be_none(use: Callable[[str], Any], words: str) -> None:
    with (
        ScriptedServer(lambda request: [answer(b"<html>")]) as other,
        pytest.raises(ClientError, match=words) as wrong,
    ):
        use(other.url)
    assert isinstance(wrong.value, InvalidRequest)


def test_what_is_no_image_is_told_by_its_type(client: Client) -> None:
    with pytest.raises(UnsupportedImage) as refused:
        client.upload(b"no image")
    assert isinstance(refused.value, ClientError)
    assert refused.value.status == 415


def test_duplicates_go_over_all_pages(server: ImgsimServer, photos: list[Path], collection: str) -> None:
    with Client(server.url) as client:
        image: Image = client.upload(photos[0], collection=collection, wait=True)
    shown = httpx.get(f"{server.url}/images/{image.id}").json()

    def script(request: Request) -> list[bytes]:
        last = "cursor=next" in request.path
        group = {"id": str(uuid4()), "match": "copy" if last else "identical", "images": [shown, shown]}
        return [answer(json.dumps({"groups": [group], "next_cursor": None if last else "next"}).encode())]

    with ScriptedServer(script) as other, Client(other.url) as client:
        groups = list(client.duplicates(collection=collection))
    assert [group.match for group in groups] == ["identical", "copy"]
    assert groups[0].images[0] == image
