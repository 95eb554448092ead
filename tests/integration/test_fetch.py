"""URLs that users send: what is fetched, what is not, and that nothing else is told."""

import asyncio
import gzip
import io
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest

from imgsim.adapters import fetch
from imgsim.adapters.fetch import UrlFetcher, is_public
from imgsim.core.errors import FetchFailed, InvalidRequest, TooLarge
from tests.processes import ImgsimServer, wait_until_at_rest
from tests.scripted import Request, ScriptedServer, answer
from tests.servers import free_port

IMAGE = bytes(range(256)) * 20
FORBIDDEN = "The URL is not at a public address, and no others are fetched (fetch.allow_private)."
SECRET = b"what only those inside may see"


def fetcher(allow_private: bool = True, **options: object) -> UrlFetcher:
    bounds = {"max_bytes": 100_000, "timeout_seconds": 5.0, "max_redirects": 3}
    return UrlFetcher(**{**bounds, "allow_private": allow_private, **options})


async def fetched(url: str, allow_private: bool = True, **options: object) -> bytes:
    async with fetcher(allow_private, **options) as opened, opened.fetch(url) as file:
        return file.read()


def resolver(*answers: Sequence[str]) -> tuple[list[str], Callable[[str, int], Awaitable[Sequence[str]]]]:
    """Gives `answers` in turn, the last one from then on; and the hosts that were asked for."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return asked, resolve


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    """Answers with the image; ``/to/URL`` redirects there, ``/status/N`` says N."""

    def script(request: Request) -> Iterable[bytes]:
        if request.path.startswith("/to/"):
            return [answer(status=302, location=request.path.removeprefix("/to/"))]
        if request.path.startswith("/status/"):
            return [answer(SECRET, int(request.path.removeprefix("/status/")))]
        return [answer(IMAGE, content_type="image/png")]

    with ScriptedServer(script) as running:
        yield running


# what is fetched


async def test_what_is_at_the_url_comes_as_a_file_from_its_start(server: ScriptedServer) -> None:
    async with fetcher() as opened, opened.fetch(f"{server.url}/a%20b?c=d#e") as file:
        assert file.tell() == 0
        assert file.read() == IMAGE
    assert file.closed
    request = server.requests[-1]
    assert (request.method, request.path) == ("GET", "/a%20b?c=d")
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.headers["accept-encoding"] == "identity"
    assert not request.headers.keys() & {"cookie", "authorization", "referer"}


async def test_many_at_once(server: ScriptedServer) -> None:
    async with fetcher() as opened:

        async def one(number: int) -> bytes:
            async with opened.fetch(f"{server.url}/{number}") as file:
                return file.read()

        assert await asyncio.gather(*(one(number) for number in range(100))) == [IMAGE] * 100


async def test_chunks_without_a_length_are_read_to_their_end() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"a\r\n0123456789\r\n" * 3 + b"0\r\n\r\n"
    for said in (chunked, b"HTTP/1.0 200 OK\r\n\r\n" + b"0123456789" * 3):
        with ScriptedServer(lambda request, said=said: [said]) as server:
            assert await fetched(server.url) == b"0123456789" * 3


async def test_redirects_are_followed_also_relative_ones(server: ScriptedServer) -> None:
    assert await fetched(f"{server.url}/to//to/{server.url}/image.png") == IMAGE
    assert server.requests[-1].path == "/image.png"


async def test_cookies_are_not_kept() -> None:
    with ScriptedServer(lambda request: [answer(IMAGE, set_cookie="a=b")]) as server:
        async with fetcher() as opened:
            for _ in range(2):
                async with opened.fetch(server.url):
                    pass
        assert all("cookie" not in request.headers for request in server.requests)


async def test_proxies_of_the_environment_are_not_asked(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert await fetched(server.url) == IMAGE


# addresses


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.10", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "203.0.113.7", "224.0.0.1", "239.255.255.255",
        "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808",
        "2002:7f00:1::", "2002:a00:1::1", "2001::1", "2001:db8::1", "fc00::1", "fd12:3456::1", "fe80::1",
        "fe80::1%lo", "fec0::1", "ff02::1", "ff0e::1", "100::1", "4000::1", "e000::1",
        "168.63.129.16", "::ffff:168.63.129.16", "64:ff9b::a83f:8110", "2002:a83f:8110::1", "192.0.0.9", "192.0.0.10",
        "192.0.0.192", "192.88.99.1", "2001:20::1", "2001:4:112::1", "3fff::1", "3fff:fff::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8", "1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "2a00:1450::8b", "::ffff:8.8.8.8",
        "64:ff9b::808:808", "2002:808:808::1", "168.63.129.17", "192.0.1.1", "2001:200::1", "3fff:1000::1",
    ],
)  # fmt: skip
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "localhost", "LOCALHOST", "[::1]", "[::]", "0.0.0.0", "0", "2130706433", "0x7f000001",
        "0x7f.1", "017700000001", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "169.254.169.254",
        "192.168.0.1", "10.1.2.3", "127。0。0。1", "224.0.0.1", "[ff02::1]", "[fd00::1]", "[fe80::1]",
    ],
)  # fmt: skip
async def test_private_addresses_are_refused_however_they_are_written(host: str) -> None:
    with ScriptedServer(lambda request: [answer(SECRET)]) as server:
        with pytest.raises(InvalidRequest) as refused:
            await fetched(f"http://{host}:{server.port}/", allow_private=False)
        assert refused.value.message == FORBIDDEN
        assert not server.requests


@pytest.mark.parametrize("host", ["localhost.", "0177.0.0.1", "１２７.0.0.1", "127.0.0.1%00", "127.0.0.1 "])
async def test_spellings_that_some_resolver_may_know_are_not_fetched(host: str) -> None:
    with ScriptedServer(lambda request: [answer(SECRET)]) as server:
        with pytest.raises((InvalidRequest, FetchFailed)):
            await fetched(f"http://{host}:{server.port}/", allow_private=False)
        assert not server.requests


async def test_an_open_and_a_closed_port_inside_look_the_same(server: ScriptedServer) -> None:
    said = set()
    for url in (server.url, f"{server.url}/status/500", f"http://127.0.0.1:{free_port()}", "https://10.255.255.1"):
        with pytest.raises(InvalidRequest) as refused:
            await fetched(url, allow_private=False)
        said.add(refused.value.message)
    assert said == {FORBIDDEN}


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["2606:4700::1", "::1"]])
async def test_a_name_is_refused_when_any_of_its_addresses_is_private(addresses: list[str]) -> None:
    _, resolve = resolver(addresses)
    with pytest.raises(InvalidRequest) as refused:
        await fetched("http://images.example.com/", allow_private=False, resolve=resolve)
    assert refused.value.message == FORBIDDEN


@pytest.fixture
def some_loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test server has a public address: 127.0.0.1 stands for one, all others stay what they are."""
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1" or is_public(address))


@pytest.mark.usefixtures("some_loopback_is_public")
async def test_a_redirect_to_a_private_address_is_refused(server: ScriptedServer) -> None:
    assert await fetched(server.url, allow_private=False) == IMAGE
    before = len(server.requests)
    for place in (f"http://127.0.0.2:{server.port}/", f"//127.0.0.2:{server.port}/", "http://169.254.169.254/latest"):
        with pytest.raises(InvalidRequest) as refused:
            await fetched(f"{server.url}/to/{place}", allow_private=False)
        assert refused.value.message == FORBIDDEN
    assert len(server.requests) == before + 3


@pytest.mark.usefixtures("some_loopback_is_public")
async def test_the_connection_goes_to_the_address_that_was_checked(server: ScriptedServer) -> None:
    """A resolver that says something else the second time is not asked a second time."""
    asked, resolve = resolver(["127.0.0.1"], ["127.0.0.2"])
    url = f"http://rebound.example.com:{server.port}/"
    async with fetcher(allow_private=False, resolve=resolve) as opened:
        async with opened.fetch(url) as file:
            assert file.read() == IMAGE
        assert asked == ["rebound.example.com"]
        assert server.requests[-1].headers["host"] == f"rebound.example.com:{server.port}"
        with pytest.raises(InvalidRequest):
            async with opened.fetch(url):
                pass
        assert len(asked) == 2


@pytest.mark.usefixtures("some_loopback_is_public")
async def test_every_redirect_is_resolved_and_checked_anew(server: ScriptedServer) -> None:
    asked, resolve = resolver(["127.0.0.1"], ["10.0.0.1"])
    url = f"http://rebound.example.com:{server.port}/to//again"
    with pytest.raises(InvalidRequest) as refused:
        await fetched(url, allow_private=False, resolve=resolve)
    assert refused.value.message == FORBIDDEN
    assert asked == ["rebound.example.com"] * 2


async def test_the_next_address_is_tried_when_one_does_not_answer(server: ScriptedServer) -> None:
    _, resolve = resolver(["127.0.0.9", "::1", "127.0.0.1"])
    assert await fetched(f"http://images.example.com:{server.port}/", resolve=resolve) == IMAGE


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://example.com/x", "gopher://example.com/x", "data:image/png;base64,AAAA", "ws://a/b",
        "javascript:1", "unix:/run/docker.sock", "/etc/passwd", "//example.com/x", "example.com/x.png", "x", "", " ",
        "http://", "http:///x", "http:/x", "https:", "http://[::1", "http://a:b/", "http://127.0.0.1:99999/",
        "http://127.0.0.1:0/", "http://127.0.0.1:-1/",
        "http://a\r\nb/", "http://exa mple.com/\0", "http://" + "a" * 70_000, "http://user@example.com/",
        "http://user:password@example.com/", "http://:@example.com/",
    ],
)  # fmt: skip
async def test_only_http_urls_without_credentials_are_fetched(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await fetched(url)
    assert len(refused.value.message) < 400
    assert "password@" not in refused.value.message


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://x/", "http://user:pw@127.0.0.1/", "http://[::1", ""])
async def test_a_redirect_obeys_the_same_rules(place: str) -> None:
    with ScriptedServer(lambda request: [answer(status=301, location=place)]) as server, pytest.raises(InvalidRequest):
        await fetched(server.url)


# what servers do


@pytest.mark.parametrize("most", [0, 1, 3])
async def test_redirects_are_bounded(most: int) -> None:
    with ScriptedServer(lambda request: [answer(status=307, location="/")]) as server:
        with pytest.raises(InvalidRequest, match=rf"more than {most} time.*fetch\.max_redirects"):
            await fetched(server.url, max_redirects=most)
        assert len(server.requests) == most + 1


@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 401, 403, 404, 418, 500, 503])
async def test_a_status_other_than_200_fails_and_its_page_is_not_told(server: ScriptedServer, status: int) -> None:
    with pytest.raises(FetchFailed, match=str(status)) as failed:
        await fetched(f"{server.url}/status/{status}")
    assert SECRET.decode() not in failed.value.message


@pytest.mark.parametrize(
    "said",
    [
        b"", b"hello\r\n\r\n", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut off", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["nothing", "no HTTP", "half a head", "no number", "digits", "cut off", "endless head", "broken chunk"],
)  # fmt: skip
async def test_what_is_no_http_fails(said: bytes) -> None:
    with ScriptedServer(lambda request: [said]) as server, pytest.raises(FetchFailed):
        await fetched(server.url)


async def test_nobody_there_fails() -> None:
    with pytest.raises(FetchFailed, match="cannot be reached"):
        await fetched(f"http://127.0.0.1:{free_port()}/")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", "a..b", "-.invalid"])
async def test_a_name_that_is_not_known_fails(host: str) -> None:
    with pytest.raises((FetchFailed, InvalidRequest)):
        await fetched(f"http://{host}/")


@pytest.mark.alone
async def test_time_is_bounded_as_a_whole() -> None:
    over = threading.Event()

    def drip(request: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while not over.wait(0.01):
            yield b"x"

    def redirect(request: Request) -> Iterator[bytes]:
        over.wait(0.05)
        yield answer(status=302, location="/")

    def silent(request: Request) -> Iterator[bytes]:
        over.wait(10)
        yield b""

    for script in (drip, redirect, silent):
        with ScriptedServer(script) as server:
            begin = time.monotonic()
            with pytest.raises(FetchFailed, match=r"0\.3 s \(fetch\.timeout_seconds\)"):
                await fetched(server.url, timeout_seconds=0.3, max_redirects=1000)
            assert time.monotonic() - begin < 2
    over.set()


async def test_size_is_bounded_whatever_the_length_says() -> None:
    sent = 0

    def endless(request: Request) -> Iterator[bytes]:
        nonlocal sent
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while True:
            sent += 10_000
            yield bytes(10_000)

    def lying(request: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"
        for _ in range(100):
            yield b"2710\r\n" + bytes(10_000) + b"\r\n"

    def honest(request: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n"

    for script in (endless, lying, honest):
        with ScriptedServer(script) as server, pytest.raises(TooLarge, match=r"100000 bytes \(upload\.max_bytes\)"):
            await fetched(server.url)
    assert sent < 50_000_000
    with ScriptedServer(lambda request: [answer(bytes(100_000))]) as server:
        assert len(await fetched(server.url)) == 100_000


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP, gzip"])
async def test_compressed_answers_are_not_inflated(encoding: str) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 100_000
    with (
        ScriptedServer(lambda request: [answer(bomb, content_encoding=encoding)]) as server,
        pytest.raises(FetchFailed, match="compresses"),
    ):
        await fetched(server.url)


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ca.pem``, and ``server.pem`` with the key for images.example.com that it vouches for."""
    if not shutil.which("openssl"):
        pytest.skip("needs the command openssl")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "names").write_text("subjectAltName=DNS:images.example.com\n")
    new = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    for command in (
        f"{new} -x509 -keyout ca.key -out ca.pem -subj /CN=test-authority -days 2",
        f"{new} -keyout server.key -out server.csr -subj /CN=images.example.com",
        "openssl x509 -req -in server.csr -out server.pem -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names",
    ):
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder


async def test_tls_is_verified_for_the_name_not_for_the_address(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for = []
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    tls.sni_callback = lambda connection, name, context: asked_for.append(name)
    with ScriptedServer(lambda request: [answer(IMAGE)], tls) as server:
        _, resolve = resolver(["127.0.0.1"])
        url = f"https://images.example.com:{server.port}/"
        with pytest.raises(FetchFailed):  # nobody that is trusted here vouches for it
            await fetched(url, resolve=resolve)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
        assert await fetched(url, resolve=resolve) == IMAGE
        assert set(asked_for) == {"images.example.com"}
        for other in (url.replace("images", "other"), server.url):
            with pytest.raises(FetchFailed):
                await fetched(other, resolve=resolve)
        with pytest.raises(FetchFailed):  # plain HTTP to it
            await fetched(url.replace("https", "http"), resolve=resolve)


# over HTTP


@pytest.fixture(scope="module")
def photographs(photos: list[Path]) -> Iterator[ScriptedServer]:
    """``/0`` to ``/9`` are photographs, ``/page`` is none."""

    def script(request: Request) -> Iterable[bytes]:
        number = request.path.removeprefix("/")
        return [answer(photos[int(number)].read_bytes() if number.isdigit() else b"<html>")]

    with ScriptedServer(script) as running:
        yield running


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server that fetches from private addresses too."""
    settings = {"IMGSIM_FETCH__ALLOW_PRIVATE": "true"}
    with ImgsimServer(tmp_path_factory.mktemp("private") / "data", settings) as running, running.client() as client:
        yield client


def test_one_url_is_encoded_as_its_image_is(
    private: httpx.Client, photographs: ScriptedServer, photos: list[Path]
) -> None:
    answered = private.post("/encode", json={"url": f"{photographs.url}/3"}).raise_for_status().json()
    expected = private.post("/encode", content=photos[3].read_bytes()).json()
    assert answered == expected


def test_a_list_of_urls_is_encoded_in_the_order_sent(
    private: httpx.Client, photographs: ScriptedServer, photos: list[Path]
) -> None:
    urls = [f"{photographs.url}/{number % 10}" for number in range(20)]
    answered = private.post("/encode", json={"url": urls}).raise_for_status().json()["embeddings"]
    expected = [private.post("/encode", content=photos[n].read_bytes()).json()["embedding"] for n in range(10)] * 2
    np.testing.assert_allclose(answered, expected, atol=1e-6)
    assert len(private.post("/encode", json={"url": urls[:1]}).json()["embeddings"]) == 1


def test_one_bad_url_of_several_is_named(private: httpx.Client, photographs: ScriptedServer) -> None:
    good = f"{photographs.url}/1"
    for bad, status, kind in (
        (f"{photographs.url}/page", 415, "unsupported-image"),
        (f"http://127.0.0.1:{free_port()}/", 422, "fetch-failed"),
        ("file:///etc/passwd", 400, "invalid-request"),
    ):
        response = private.post("/encode", json={"url": [good, good, bad]})
        assert response.status_code == status
        assert response.json()["type"] == f"urn:imgsim:error:{kind}"
        assert response.json()["detail"].startswith("URL 3 of 3: ")


@pytest.mark.parametrize("url", [[], ["http://127.0.0.1:1/"] * 65, 5, [None]])
def test_a_list_of_urls_has_1_to_64(private: httpx.Client, url: object) -> None:
    assert private.post("/encode", json={"url": url}).status_code == 400


def test_a_text_and_a_url_together_are_refused(private: httpx.Client) -> None:
    assert private.post("/encode", json={"url": "http://x/", "text": "a cat"}).status_code == 400


def test_search_by_url_in_json_and_in_a_form(
    private: httpx.Client, photographs: ScriptedServer, photos: list[Path]
) -> None:
    ids = []
    for photo in photos[:5]:
        upload = private.post("/images/upload", files={"file": io.BytesIO(photo.read_bytes())})
        ids.append(upload.raise_for_status().json()["id"])
    for image_id in ids:
        assert wait_until_at_rest(private, image_id)["state"] == "done"
    url = f"{photographs.url}/2"
    by_json = private.post("/search", json={"url": url, "limit": 3}).raise_for_status().json()
    by_form = private.post("/search", files={"url": (None, url), "limit": (None, "3")}).raise_for_status().json()
    assert by_json == by_form
    assert by_json["results"][0]["image"]["id"] == ids[2]
    assert by_json["results"][0]["score"] > 0.999
    assert len(by_json["results"]) == 3


def test_by_default_nothing_private_is_fetched(
    private: httpx.Client, photographs: ScriptedServer, tmp_path: Path
) -> None:
    before = len(photographs.requests)
    with ImgsimServer(tmp_path / "data", role="embedder") as running, running.client() as client:
        for url in (f"{photographs.url}/1", f"http://localhost:{photographs.port}/1", "http://169.254.169.254/"):
            response = client.post("/encode", json={"url": url})
            assert response.status_code == 400
            assert response.json()["detail"] == FORBIDDEN
    assert len(photographs.requests) == before
