"""The embedder over HTTP: exact vectors, and what happens when the process behind it goes, changes or lies."""

import asyncio
import io
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imgsim.adapters.embedding import EMBEDDERS, wire
from imgsim.adapters.images import read_image
from imgsim.core.errors import BrokenImage, EmbeddingFailed, InvalidRequest, Overloaded, SettingsError, Unavailable
from imgsim.core.models import Picture
from imgsim.core.ports import Embedder
from imgsim.settings import Embedding, Settings
from tests.processes import ImgsimServer
from tests.scripted import Request, Script, ScriptedServer, answer
from tests.servers import free_port

MODEL = {
    "model": "scripted@1",
    "dimensions": 4,
    "preprocessing": "none@1",
    "input_size": 8,
    "supports_text": True,
}
LONGEST = wire.longest_side(224)
KEY = "a-key-that-nobody-may-see"


def make(url: str, **embedder: object) -> Embedder:
    settings = Settings(embedder=Embedding(url=url, **embedder))
    return EMBEDDERS[url.partition(":")[0]](settings)


def embedder_process(folder: Path, port: int = 0, **settings: object) -> ImgsimServer:
    environment = {f"IMGSIM_EMBEDDER__{name.upper()}": str(value) for name, value in settings.items()}
    return ImgsimServer(folder / "data", environment, role="embedder", port=port)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedder_process(tmp_path_factory.mktemp("packaged")) as running:
        yield running.url


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedder_process(tmp_path_factory.mktemp("colour"), url="colour:") as running:
        yield running.url


@pytest.fixture(scope="module")
def pictures(photos: list[Path]) -> list[Picture]:
    """Photographs, and noise in shapes that a reader of files would reduce."""
    random = np.random.default_rng(5)
    noise = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in [(1000, 1100), (1, 1), (LONGEST, 20)]]
    return [np.array(Image.open(path).convert("RGB")) for path in photos[::20][:8]] + noise


@pytest.fixture
def picture() -> Picture:
    return np.full((3, 5, 3), 7, np.uint8)


# a small server that says what the tests want


def raw(rows: NDArray[np.float32], **headers: str) -> bytes:
    identity = {"x_imgsim_model": "scripted@1", "x_imgsim_preprocessing": "none@1"}
    return answer(rows.astype("<f4").tobytes(), **{**identity, **headers})


def vectors(request: Request) -> bytes:
    """One unit vector for each picture: its first pixel's red decides which."""
    rows = np.eye(4, dtype="<f4")[[picture[0, 0, 0] % 4 for picture in wire.unpack(request.body, LONGEST)]]
    return raw(rows)


def problem(status: int, code: str, detail: str, **headers: str) -> bytes:
    body = {"type": f"urn:imgsim:error:{code}", "title": code, "status": status, "detail": detail}
    return answer(json.dumps(body).encode(), status, content_type="application/problem+json", **headers)


def service(encode: Callable[[Request], Iterable[bytes]]) -> Script:
    """Describes itself; `encode` answers POST."""
    return lambda request: [answer(json.dumps(MODEL).encode())] if request.method == "GET" else encode(request)


@asynccontextmanager
async def scripted(
    encode: Callable[[Request], Iterable[bytes]], **embedder: object
) -> AsyncIterator[tuple[Embedder, ScriptedServer]]:
    with ScriptedServer(service(encode)) as server:
        async with make(server.url, **embedder) as opened:
            yield opened, server


def posted(server: ScriptedServer) -> list[int]:
    """How many pictures each request had."""
    return [len(wire.unpack(request.body, LONGEST)) for request in server.requests if request.method == "POST"]


# exactness


@pytest.mark.parametrize("batch", [1, 4])
async def test_vectors_are_bit_for_bit_those_of_the_local_model(
    packaged: str, pictures: list[Picture], batch: int
) -> None:
    async with make("local:") as local, make(packaged, batch=batch) as remote:
        assert (remote.model_id, remote.preprocessing) == (local.model_id, local.preprocessing)
        assert (remote.dimensions, remote.input_size) == (local.dimensions, local.input_size)
        assert np.array_equal(await remote.embed_images(pictures), await local.embed_images(pictures))


async def test_pictures_arrive_whole_where_no_step_can_be_done_before(colour: str, pictures: list[Picture]) -> None:
    async with make("colour:") as local, make(colour) as remote:
        assert np.array_equal(await remote.embed_images(pictures), await local.embed_images(pictures))


def test_packing_is_undone_by_unpacking(pictures: list[Picture]) -> None:
    unpacked = wire.unpack(wire.pack([*pictures, pictures[0][::-1, ::2]]), LONGEST)
    assert all(map(np.array_equal, unpacked, [*pictures, pictures[0][::-1, ::2]]))


SIZE_2X2 = bytes([2, 0, 0, 0, 2, 0, 0, 0])


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", InvalidRequest),
        (b"\1", BrokenImage),
        (SIZE_2X2, BrokenImage),
        (SIZE_2X2 + bytes(11), BrokenImage),
        (SIZE_2X2 + bytes(13), BrokenImage),
        (bytes(8), BrokenImage),
        (b"\xff" * 8 + bytes(100), BrokenImage),
        ((b"\1\0\0\0" * 2 + bytes(3)) * 65, InvalidRequest),
    ],
    ids=["empty", "half a size", "no pixels", "too few", "too many", "no sides", "enormous", "65 pictures"],
)
def test_a_body_whose_sizes_do_not_fit_is_refused(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        wire.unpack(body, LONGEST)


@pytest.mark.parametrize("shape", [(LONGEST + 1, 1, 3), (1, LONGEST + 1, 3), (LONGEST + 1, 1000, 3)])
def test_a_picture_longer_than_any_reader_gives_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(EmbeddingFailed, match=f"up to {LONGEST}"):
        wire.unpack(wire.pack([np.zeros(shape, np.uint8)]), LONGEST)


@pytest.mark.parametrize("input_size", [64, 224, 336, 512])
@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000), (60_000, 900), (9000, 9000), (700, 7200)])
def test_what_the_reader_gives_is_taken(input_size: int, size: tuple[int, int]) -> None:
    file = io.BytesIO()
    Image.new("1", size).save(file, "PNG")
    found = read_image(file.getvalue(), 100_000_000, max(448, 2 * input_size))
    assert found is not None
    (taken,) = wire.unpack(wire.pack([found.picture]), wire.longest_side(input_size))
    assert taken.shape == found.picture.shape


async def test_a_picture_larger_than_an_embedder_takes_fails_alone(colour: str, picture: Picture) -> None:
    large = np.zeros((4800, 4800, 3), np.uint8)
    async with make(colour) as remote:
        failure, good = await asyncio.gather(
            remote.embed_images([large]), remote.embed_images([picture]), return_exceptions=True
        )
        assert isinstance(failure, EmbeddingFailed)
        assert str(wire.LARGEST_BODY) in failure.message
        assert isinstance(good, np.ndarray)


# together


async def test_what_waits_goes_together_and_everyone_gets_their_own() -> None:
    async with scripted(lambda request: [vectors(request)], batch=8) as (remote, server):
        wanted = [n % 4 for n in range(100)]
        calls = [remote.embed_images([np.full((1, 1, 3), n, np.uint8)]) for n in wanted]
        got = await asyncio.gather(*calls)
        assert [int(rows[0].argmax()) for rows in got] == wanted
        assert sum(posted(server)) == 100
        assert len(posted(server)) <= 20
        assert max(posted(server)) == 8


async def test_at_most_four_requests_run_at_a_time(picture: Picture) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def encode(request: Request) -> Iterator[bytes]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.02)
        with lock:
            running -= 1
        yield vectors(request)

    async with scripted(encode, batch=1) as (remote, _):
        await asyncio.gather(*(remote.embed_images([picture]) for _ in range(20)))
    assert most == 4


@pytest.mark.parametrize("status", [413, 415, 422])
async def test_a_picture_that_the_embedder_refuses_fails_alone(status: int) -> None:
    def encode(request: Request) -> Iterable[bytes]:
        bad = any(picture[0, 0, 0] == 255 for picture in wire.unpack(request.body, LONGEST))
        return [problem(status, "embedding-failed", "This one not.") if bad else vectors(request)]

    async with scripted(encode, batch=16) as (remote, _):
        colours = [0, 1, 255, 2, 3] * 4
        calls = [remote.embed_images([np.full((1, 1, 3), n, np.uint8)]) for n in colours]
        for colour, outcome in zip(colours, await asyncio.gather(*calls, return_exceptions=True), strict=True):
            if colour == 255:
                assert isinstance(outcome, EmbeddingFailed)
                assert outcome.message == "This one not."
            else:
                assert isinstance(outcome, np.ndarray)
                assert outcome[0].argmax() == colour


class Gate:
    """A script that lets the first four requests in and answers none before it is opened."""

    def __init__(self) -> None:
        self._four = threading.Barrier(5)
        self._open = threading.Event()

    def __call__(self, request: Request) -> Iterator[bytes]:
        if not self._open.is_set():
            self._four.wait(10)
        self._open.wait(10)
        yield vectors(request)

    async def filled(self) -> None:
        """Returns when the four are in."""
        await asyncio.to_thread(self._four.wait, 10)

    def open(self) -> None:
        self._open.set()


async def test_a_cancelled_call_leaves_the_queue(picture: Picture) -> None:
    gate = Gate()
    async with scripted(gate, batch=1, queue=4) as (remote, server):
        running = [asyncio.create_task(remote.embed_images([picture])) for _ in range(4)]
        await gate.filled()
        waiting = [asyncio.create_task(remote.embed_images([picture])) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"4 pictures wait.*embedder\.queue"):
            await remote.embed_images([picture])
        for call in waiting:
            call.cancel()
        await asyncio.wait(waiting)
        last = asyncio.create_task(remote.embed_images([picture]))
        gate.open()
        assert len(await asyncio.gather(*running, last)) == 5
        assert len(posted(server)) == 5


async def test_closing_tells_those_who_wait(picture: Picture) -> None:
    gate = Gate()
    async with scripted(gate, batch=1) as (remote, _):
        calls = [asyncio.create_task(remote.embed_images([picture])) for _ in range(6)]
        await gate.filled()
    gate.open()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    with pytest.raises(Unavailable):
        await remote.embed_images([picture])


async def test_closing_tells_those_whose_batch_was_just_refused(picture: Picture) -> None:
    alone, over = threading.Event(), threading.Event()

    def encode(request: Request) -> Iterator[bytes]:
        if len(wire.unpack(request.body, LONGEST)) == 1:
            alone.set()
            over.wait(10)
        yield problem(422, "embedding-failed", "Not all of them.")

    async with scripted(encode, batch=2) as (remote, _):
        calls = [asyncio.create_task(remote.embed_images([picture])) for _ in range(8)]
        assert await asyncio.to_thread(alone.wait, 10)
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    over.set()
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)


# a service that goes, changes or is busy


async def test_killed_it_is_unavailable_and_back_it_works(tmp_path: Path, picture: Picture) -> None:
    with embedder_process(tmp_path, free_port(), url="colour:") as server:
        async with make(server.url) as remote:
            expected = await remote.embed_images([picture])
            server.kill()
            for call in (remote.embed_images([picture]), remote.ping()):
                with pytest.raises(Unavailable, match="cannot be reached"):
                    await call
            with pytest.raises(Unavailable):
                async with make(server.url):
                    pass
            server.start()
            await remote.ping()
            assert np.array_equal(await remote.embed_images([picture]), expected)


async def test_another_model_in_its_place_is_refused(
    colour: str, packaged: str, pictures: list[Picture], picture: Picture
) -> None:
    """As after a restart with other settings: one address, then another process behind it."""
    behind = colour
    async with relay(lambda: behind) as url, make(url) as remote:
        await remote.embed_images([picture])
        behind = packaged
        for call in (remote.embed_images([picture]), remote.ping()):
            with pytest.raises(Unavailable, match=r"now serves the model efficientnet-lite0@1 .*colour-histogram@1"):
                await call
        async with make(url) as again:
            assert again.model_id == "efficientnet-lite0@1"
            assert len(await again.embed_images(pictures)) == len(pictures)
        behind = colour
        await remote.ping()
        await remote.embed_images([picture])


@pytest.mark.parametrize(("before", "after"), [("none@1", "none@1+int8"), ("none@1+int8", "none@1")])
async def test_a_restart_in_another_precision_is_no_other_model(picture: Picture, before: str, after: str) -> None:
    now = before

    def script(request: Request) -> Iterable[bytes]:
        if request.method == "GET":
            return [answer(json.dumps(MODEL | {"preprocessing": now}).encode())]
        return [raw(UNIT, x_imgsim_preprocessing=now)]

    with ScriptedServer(script) as server:
        async with make(server.url) as remote:
            for served in (before, after):
                now = served
                await remote.ping()
                assert np.array_equal(await remote.embed_images([picture]), UNIT)
                assert np.array_equal(await remote.embed_images([picture], urgent=True), UNIT)
                assert np.array_equal(await remote.embed_texts(["a cat"]), UNIT)
                assert remote.preprocessing == "none@1"
            now = after.replace("@1", "@2")
            with pytest.raises(Unavailable, match=r"now serves .*none@2"):
                await remote.embed_images([picture])


@asynccontextmanager
async def relay(target: Callable[[], str]) -> AsyncIterator[str]:
    """A loopback address behind which `target` stands at the moment, as behind a load balancer."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = target().removeprefix("http://").split(":")
        back, forth = await asyncio.open_connection(host, int(port))
        request = await reader.readuntil(b"\r\n\r\n")  # one request a connection, so that a change is seen at once
        forth.write(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        await asyncio.gather(copy(reader, forth), copy(back, writer), return_exceptions=True)

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def test_an_overloaded_service_is_overloaded(tmp_path: Path, pictures: list[Picture]) -> None:
    with embedder_process(tmp_path, threads=1, queue=1) as server:
        async with make(server.url, batch=1) as remote:
            calls = [remote.embed_images([pictures[0]]) for _ in range(40)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
            assert 0 < len(refused) < 40
            assert refused[0].retry_after == 1
            assert all(isinstance(outcome, np.ndarray | Overloaded) for outcome in outcomes)
            assert len(await remote.embed_images([pictures[0]])) == 1


@pytest.mark.parametrize(
    ("given", "seconds"), [("7", 7), ("100000", 60), ("-1", 5), ("nan", 5), ("Wed, 21 Oct 2026 07:28:00 GMT", 5)]
)
async def test_when_to_come_back_is_passed_on(picture: Picture, given: str, seconds: float) -> None:
    def encode(request: Request) -> Iterable[bytes]:
        return [problem(503, "unavailable", "The model is not open yet.", retry_after=given)]

    async with scripted(encode) as (remote, _):
        with pytest.raises(Unavailable, match="The model is not open yet") as caught:
            await remote.embed_images([picture])
        assert type(caught.value) is Unavailable
        assert caught.value.retry_after == seconds


async def test_a_connection_closed_under_a_request_is_tried_once_more(picture: Picture) -> None:
    def encode(request: Request) -> Iterable[bytes]:
        return [vectors(request)] if len(posted(server)) % 2 == 0 else []

    async with scripted(encode) as (remote, server):
        assert len(await remote.embed_images([picture])) == 1
        assert len(posted(server)) == 2


async def test_connections_closed_always_are_unavailable(picture: Picture) -> None:
    async with scripted(lambda request: []) as (remote, server):
        with pytest.raises(Unavailable, match="cannot be reached"):
            await remote.embed_images([picture])
        assert len(posted(server)) == 2


async def test_no_answer_in_time_is_unavailable(picture: Picture) -> None:
    over = threading.Event()

    def drip(request: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n"
        while not over.wait(0.02):
            yield b"\0"

    async with scripted(drip, timeout_seconds=0.2) as (remote, _):
        with pytest.raises(Unavailable, match=r"no answer within 0\.2 s \(embedder\.timeout_seconds\)"):
            await remote.embed_images([picture])
        over.set()


# a service that is none


UNIT = np.eye(4, dtype=np.float32)[:1]
HOSTILE = {
    "nothing": b"",
    "no HTTP": b"220 mail.example.org ESMTP\r\n",
    "half a head": b"HTTP/1.1 200",
    "half a body": raw(UNIT)[:-1],
    "a page": answer(b"<html>Welcome</html>", content_type="text/html"),
    "a page with the model": raw(np.frombuffer(b"<html>Welcome</html>", np.float32)),
    "JSON": answer(b'{"embedding": [1, 0, 0, 0]}'),
    "too short": raw(UNIT[:, :3]),
    "too many": raw(np.eye(4, dtype=np.float32)),
    "too long": raw(np.zeros(100_000, np.float32)),
    "endless": raw(np.zeros(10_000_000, np.float32), content_length="999999999999"),
    "digits": raw(UNIT, content_length="9" * 5000),
    "NaN": raw(np.full((1, 4), np.nan, np.float32)),
    "infinite": raw(np.full((1, 4), np.inf, np.float32)),
    "huge": raw(np.full((1, 4), 3e38, np.float32)),
    "zero": raw(np.zeros((1, 4), np.float32)),
    "not of unit length": raw(2 * UNIT),
    "no model": raw(UNIT, x_imgsim_model=""),
    "another preprocessing": raw(UNIT, x_imgsim_preprocessing="none@2"),
    "compressed": raw(UNIT, content_encoding="gzip"),
    "redirect": answer(b"", 302, location="http://127.0.0.1:1/"),
    "created": raw(UNIT).replace(b"200", b"201"),
    "not found": answer(b"<html>404</html>", 404),
    "too large says the proxy": answer(b"<html>413</html>", 413),
    "a strange problem": answer(b'{"type": 1}', 422),
    "a deep problem": answer(b"[" * 60_000, 422),
    "an error": answer(b"Traceback", 500),
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE)
async def test_answers_that_are_none_are_unavailable(picture: Picture, said: bytes) -> None:
    honest = False

    def encode(request: Request) -> Iterable[bytes]:
        return [vectors(request) if honest else said]

    async with scripted(encode) as (remote, _):
        if b"gzip" in said:  # nothing is decompressed: the bytes are what they are
            assert np.array_equal(await remote.embed_images([picture]), UNIT)
            return
        with pytest.raises(Unavailable, match="The embedder at http://127"):
            await remote.embed_images([picture])
        honest = True
        assert len(await remote.embed_images([picture])) == 1


@pytest.mark.parametrize(
    "said",
    [b"", b"<html></html>", b"{}", b"[" * 50_000, b'"' + b"x" * 100_000 + b'"']
    + [json.dumps(MODEL | change).encode() for change in ({"dimensions": 0}, {"dimensions": 10**9}, {"model": ""})],
    ids=["empty", "page", "object", "deep", "long", "no dimensions", "dimensions", "no name"],
)
async def test_what_does_not_describe_a_model_is_unavailable(said: bytes) -> None:
    with ScriptedServer(lambda request: [answer(said)]) as server:
        remote = make(server.url)
        with pytest.raises(Unavailable, match="The embedder at http://127"):
            await remote.__aenter__()
        server.script = service(lambda request: [vectors(request)])
        async with remote:
            assert remote.model_id == "scripted@1"


async def test_texts_go_in_groups_that_a_request_takes() -> None:
    def encode(request: Request) -> Iterable[bytes]:
        texts = json.loads(request.body)["text"]
        return [raw(np.eye(4, dtype=np.float32)[[int(text) % 4 for text in texts]])]

    async with scripted(encode) as (remote, server):
        rows = await remote.embed_texts([str(n) for n in range(150)])
        assert [int(row.argmax()) for row in rows] == [n % 4 for n in range(150)]
        assert len(server.requests) == 1 + 3
        assert (await remote.embed_texts([])).shape == (0, 4)


# keys and addresses


async def test_the_key_opens_and_is_never_told(tmp_path: Path, picture: Picture) -> None:
    environment = {"IMGSIM_EMBEDDER__URL": "colour:", "IMGSIM_AUTH__KEYS": KEY}
    with ImgsimServer(tmp_path / "data", environment, role="embedder") as server:
        async with make(server.url, api_key=KEY) as remote:
            assert len(await remote.embed_images([picture])) == 1
        for wrong in ("", f"{KEY}-not"):
            with pytest.raises(Unavailable, match=r"embedder\.api_key") as refused:
                await make(server.url, api_key=wrong).__aenter__()
            assert KEY not in refused.value.message


async def test_a_password_in_the_url_is_masked() -> None:
    with pytest.raises(Unavailable) as refused:
        await make(f"http://user:{KEY}@127.0.0.1:{free_port()}").__aenter__()
    assert KEY not in refused.value.message


async def test_a_path_before_it_is_kept(picture: Picture) -> None:
    with ScriptedServer(service(lambda request: [vectors(request)])) as server:
        async with make(f"{server.url}/embedders/") as remote:
            await remote.embed_images([picture])
        assert {request.path for request in server.requests} == {"/embedders/encode"}


@pytest.mark.parametrize("url", ["http://", "https:", "http:///encode", "http://host:port"])
def test_a_url_without_a_host_is_a_settings_error(url: str) -> None:
    with pytest.raises(SettingsError, match=r"embedder\.url"):
        make(url)
