"""Server-sent events over HTTP: one for each state change, in order, to everyone who listens."""

import asyncio
import io
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from litestar import Litestar
from litestar.di import Provide
from PIL import Image

from imgsim.adapters.database.memory import MemoryImageRepository
from imgsim.adapters.http.events import EventsController
from imgsim.adapters.http.services import Services
from imgsim.core.events import EventBus
from imgsim.core.models import Image as StoredImage
from imgsim.core.models import ImageEvent, ImageState, new_image_id
from tests.processes import ImgsimServer, wait_until_at_rest

Json = dict[str, Any]

LIFE = ["created", "pending", "embedding", "indexing", "done"]
UNKNOWN = "01900000-0000-7000-8000-000000000000"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ImgsimServer]]:
    """Starts a server of this test's own; takes settings as ``IMGSIM_*`` without the prefix."""
    servers: list[ImgsimServer] = []

    def start(**settings: str) -> ImgsimServer:
        environment = {f"IMGSIM_{name}": value for name, value in settings.items()}
        servers.append(ImgsimServer(tmp_path / "data", {"IMGSIM_EMBEDDER__URL": "colour:", **environment}))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@contextmanager
def listening(
    client: httpx.Client, path: str = "/events", last_event_id: str | None = None
) -> Iterator[Iterator[Json]]:
    """The data of each event of a stream, with its name as ``event``, and its id where it has one as ``event_id``.

    The stream is open when this returns.
    """
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    with client.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        lines = response.iter_lines()
        if path == "/events":
            assert next(lines) == ": listening"
        yield _events(lines)


def _events(lines: Iterator[str]) -> Iterator[Json]:
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            position = {"event_id": fields["id"]} if "id" in fields else {}
            yield {**json.loads(fields["data"]), "event": fields["event"], **position}
            fields = {}


def until(events: Iterator[Json], image_id: str, state: str) -> list[Json]:
    """The events of one image up to that state."""
    seen = []
    for event in events:
        if event["id"] == image_id:
            seen.append(event)
            if event["state"] == state:
                return seen
    raise AssertionError(f"the stream ended before {state}: {seen}")


def speckle(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng([2, seed]).integers(0, 256, (48, 64, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def upload(client: httpx.Client, seed: int, collection: str = "events") -> str:
    answer = client.post("/images/upload", files={"file": speckle(seed)}, data={"collection": collection})
    image_id: str = answer.raise_for_status().json()["id"]
    return image_id


def states(events: list[Json]) -> list[str]:
    return [event["state"] for event in events]


# all images


def test_the_stream_of_all_tells_every_change_of_an_image_in_order(server: ImgsimServer, client: httpx.Client) -> None:
    with server.client() as other, listening(client) as events:
        image_id = upload(other, 1)
        seen = until(events, image_id, "done")
        image = other.get(f"/images/{image_id}").json()
    assert states(seen) == LIFE
    assert [event["stage"] for event in seen] == [None, None, "embed", "index", None]
    for event in seen:
        assert list(event) == ["id", "collection", "state", "stage", "error", "at", "event", "event_id"]
        assert (event["event"], event["collection"], event["error"]) == (event["state"], "events", None)
        assert event["at"].endswith("Z")
    times = [event["at"] for event in seen]
    assert times == sorted(times)
    assert (times[0], times[-1]) == (image["created_at"], image["updated_at"])


def test_every_listener_hears_of_every_image(server: ImgsimServer, client: httpx.Client) -> None:
    with server.client() as one, server.client() as two, listening(one) as first, listening(two) as second:
        ids = [upload(client, seed) for seed in range(2, 7)]
        for events in (first, second):
            left = dict.fromkeys(ids, 0)
            while left:
                event = next(events)
                if event["id"] in left:
                    assert event["state"] == LIFE[left[event["id"]]]
                    left[event["id"]] += 1
                    if event["state"] == "done":
                        del left[event["id"]]


def test_a_duplicate_changes_nothing_and_tells_nothing(server: ImgsimServer, client: httpx.Client) -> None:
    known = upload(client, 7)
    wait_until_at_rest(client, known)
    with server.client() as other, listening(client) as events:
        assert upload(other, 7) == known
        last = upload(other, 8)
        for event in events:
            assert event["id"] != known
            if (event["id"], event["state"]) == (last, "done"):
                break


def test_a_delete_is_told_as_such(server: ImgsimServer, client: httpx.Client) -> None:
    with server.client() as other, listening(client) as events:
        image_id = upload(other, 9)
        until(events, image_id, "done")
        other.delete(f"/images/{image_id}")
        assert states(until(events, image_id, "deleted")) == ["deleted"]


def test_an_error_is_told_with_its_reason_and_a_retry_too(start: Callable[..., ImgsimServer]) -> None:
    server = start(PIPELINE__TIMEOUT_SECONDS="0.000001", JOBS__MAX_ATTEMPTS="1")
    with server.client() as client, server.client() as other, listening(client) as events:
        image_id = upload(other, 10)
        failed = until(events, image_id, "error")
        assert states(failed) == ["created", "pending", "embedding", "error"]
        error = failed[-1]["error"]
        assert error == other.get(f"/images/{image_id}").json()["error"]
        assert (error["stage"], error["type"], error["attempts"]) == ("embed", "timeout", 1)
        assert "pipeline.timeout_seconds" in error["message"]

        retried = other.post(f"/images/{image_id}/retry")
        assert (retried.status_code, retried.json()["state"], retried.json()["error"]) == (202, "pending", None)
        again = until(events, image_id, "error")
        assert states(again) == ["pending", "embedding", "error"]
        assert again[-1]["error"]["attempts"] == 2


def test_who_comes_back_with_the_last_id_hears_what_it_missed(start: Callable[..., ImgsimServer]) -> None:
    server = start()
    with server.client() as client, server.client() as other:
        with listening(client) as events:
            upload(other, 30)
            first = next(events)
        missed = upload(other, 31)
        wait_until_at_rest(other, missed)
        with listening(client, last_event_id=first["event_id"]) as events:
            assert states(until(events, missed, "done")) == LIFE
            follows = upload(other, 32)
            seen = until(events, follows, "done")
            assert states(seen) == LIFE
        with listening(client, last_event_id="1-0") as events:
            again = until(events, follows, "done")
            assert again == seen, "the same events under the same ids"
        with listening(client, last_event_id=seen[-1]["event_id"]) as events:
            assert states(until(events, upload(other, 33), "done")) == LIFE


@pytest.mark.parametrize("last_event_id", ["nonsense", "1", "1-2-3", "$", "9" * 40 + "-0"])
def test_an_id_that_is_none_is_a_problem(client: httpx.Client, last_event_id: str) -> None:
    response = client.get("/events", headers={"Last-Event-ID": last_event_id})
    assert (response.status_code, response.json()["type"]) == (400, "urn:imgsim:error:invalid-request")
    assert "1700000000000-0" in response.json()["detail"]


# one image


def test_the_stream_of_an_image_tells_each_change_and_ends_when_it_is_done(
    start: Callable[..., ImgsimServer], photos: list[Path]
) -> None:
    server = start(JOBS__CONCURRENCY="1", EMBEDDER__URL="local:", EMBEDDER__THREADS="1")
    with server.client() as client:
        for path in photos[:40]:  # work before ours
            client.post("/images/upload", files={"file": path.open("rb")})
        image_id = upload(client, 11)
        with listening(client, f"/images/{image_id}/events") as events:
            seen = list(events)
    assert {event["id"] for event in seen} == {image_id}
    assert states(seen) == LIFE[1:]


def test_the_stream_of_an_image_at_rest_tells_where_it_stands_and_ends(client: httpx.Client) -> None:
    image_id = upload(client, 12)
    wait_until_at_rest(client, image_id)
    with listening(client, f"/images/{image_id}/events") as events:
        assert states(list(events)) == ["done"]


def test_the_stream_of_an_image_ends_with_its_deletion(start: Callable[..., ImgsimServer]) -> None:
    server = start(
        PIPELINE__TIMEOUT_SECONDS="0.000001", JOBS__BACKOFF_SECONDS="300", JOBS__RECONCILE_SECONDS="300"
    )  # fails, and waits for its next attempt
    with server.client() as client, server.client() as other:
        image_id = upload(client, 13)
        with listening(client, f"/images/{image_id}/events") as events:
            next(events)
            other.delete(f"/images/{image_id}").raise_for_status()
            assert states(list(events))[-1] == "deleted"


def test_the_stream_of_an_unknown_image_is_404(client: httpx.Client) -> None:
    response = client.get(f"/images/{UNKNOWN}/events")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


# when no event comes


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgsim.adapters.http.events._SECONDS_BETWEEN_LOOKS", 0.05)


@asynccontextmanager
async def stream_of(images: MemoryImageRepository, bus: EventBus, path: str) -> AsyncIterator[asyncio.Task[str]]:
    """All that a client reads from an app that has these parts, until the stream ends by itself."""
    nothing: dict[str, Any] = dict.fromkeys(field.name for field in fields(Services))
    services = Services(**{**nothing, "images": lambda: images, "events": lambda: bus})
    app = Litestar([EventsController], dependencies={"services": Provide(lambda: services, sync_to_thread=False)})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x", timeout=10) as client:

        async def read() -> str:
            return (await client.get(path)).raise_for_status().text

        reading = asyncio.create_task(read())
        await until_true(lambda: bool(bus._listeners))
        yield reading
        await asyncio.wait_for(reading, 10)


async def until_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (conditions of any kind have no event)
            await asyncio.sleep(0.01)


def new_image() -> StoredImage:
    now = datetime.now(UTC)
    return StoredImage(
        id=new_image_id(), collection="c", state=ImageState.CREATED, stage=None, duplicate=False, sha256="0" * 64,
        filename="a.png", content_type="image/png", bytes=1, width=1, height=1, tags=[], metadata={}, attempts=0,
        error=None, embedding=None, features={}, created_at=now, updated_at=now,
    )  # fmt: skip


def told(text: str) -> list[Json]:
    return list(_events(iter(text.splitlines())))


@pytest.mark.usefixtures("quick_looks")
async def test_a_change_that_no_event_tells_is_told_all_the_same() -> None:
    images, bus = MemoryImageRepository(), EventBus()
    image = await images.add(new_image())
    async with stream_of(images, bus, f"/images/{image.id}/events") as reading:
        (claimed,) = await images.claim([image.id], "a worker elsewhere", 30, "embed")
        await asyncio.sleep(0.3)
        await images.finish(image.id, claimed.attempts, {}, None)
    assert states(told(reading.result())) == ["created", "embedding", "done"]


@pytest.mark.usefixtures("quick_looks")
async def test_a_delete_that_no_event_tells_is_told_all_the_same() -> None:
    images, bus = MemoryImageRepository(), EventBus()
    image = await images.add(new_image())
    async with stream_of(images, bus, f"/images/{image.id}/events") as reading:
        await images.entomb(image.id)
    assert states(told(reading.result())) == ["created", "deleted"]


@pytest.mark.usefixtures("quick_looks")
async def test_an_event_that_comes_late_or_twice_is_not_told_again() -> None:
    images, bus = MemoryImageRepository(), EventBus()
    image = await images.add(new_image())
    (pending,) = await images.mark_pending([image.id])
    async with stream_of(images, bus, f"/images/{image.id}/events") as reading:
        for late in (image, pending):
            bus.publish(ImageEvent.of(late))
        (claimed,) = await images.claim([image.id], "a worker elsewhere", 30, "embed")
        await asyncio.sleep(0.3)  # this is read, and only then heard of
        bus.publish(ImageEvent.of(claimed))
        bus.publish(ImageEvent.of(await images.finish(image.id, claimed.attempts, {}, None)))
    assert states(told(reading.result())) == ["pending", "embedding", "done"]


@pytest.mark.usefixtures("quick_looks")
async def test_a_quiet_stream_tells_now_and_then_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgsim.adapters.http.events._SECONDS_BETWEEN_COMMENTS", 0.2)
    bus = EventBus()
    async with stream_of(MemoryImageRepository(), bus, "/events") as reading:
        await asyncio.sleep(0.8)
        bus.close()
    assert 2 <= reading.result().count(": still here") <= 4


# those who stop, leave or do not read


def test_streams_end_cleanly_when_the_server_stops(start: Callable[..., ImgsimServer]) -> None:
    server = start()
    with server.client() as client, listening(client) as events:
        began = time.monotonic()
        assert server.terminate() == 0
        assert list(events) == []
        assert time.monotonic() - began < 8, "streams must not hold up the stop"
    assert "Traceback" not in server.log.read_text()


def test_clients_that_leave_are_forgotten(start: Callable[..., ImgsimServer]) -> None:
    server = start()
    with server.client() as client:
        for _ in range(20):
            with listening(client):
                pass
        process = psutil.Process(server.process.pid)
        deadline = time.monotonic() + 10
        while len(process.net_connections("tcp")) > 3:  # the listening one, and the client's own
            assert time.monotonic() < deadline
        wait_until_at_rest(client, upload(client, 14))
    assert "Traceback" not in server.log.read_text()


def test_a_client_that_reads_nothing_holds_up_nobody(start: Callable[..., ImgsimServer]) -> None:
    server = start()
    address = httpx.URL(server.url)
    with socket.socket() as idle:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        idle.connect((address.host, address.port))
        idle.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        with server.client() as client, server.client() as other, listening(client) as events:
            last = [upload(other, seed) for seed in range(20, 120)][-1]
            assert states(until(events, last, "done")) == LIFE
        assert server.terminate() == 0
    assert "Traceback" not in server.log.read_text()


async def test_a_listener_that_reads_nothing_is_cut_off_before_it_holds_much() -> None:
    bus = EventBus()
    with bus.listen() as listener:
        for _ in range(50_000):
            bus.publish(ImageEvent(new_image_id(), "c", "done", None, None, datetime.now(UTC)))
        heard = 0
        while await listener.next():
            heard += 1
    assert 0 < heard <= 1000
