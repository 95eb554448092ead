"""``/imports``: archives, tables and lists that a server takes in for its clients."""

import io
import json
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.processes import ImgsimServer
from tests.scripted import Request, ScriptedServer, answer
from tests.servers import SeaweedFS

Json = dict[str, Any]

SETTINGS = {"IMGSIM_EMBEDDER__URL": "colour:", "IMGSIM_FETCH__ALLOW_PRIVATE": "true", "IMGSIM_IMPORTS__AT_ONCE": "1"}
UNKNOWN = "01900000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def importing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImgsimServer]:
    settings = SETTINGS | {"IMGSIM_IMPORTS__MAX_BYTES": "3000000", "IMGSIM_UPLOAD__MAX_BYTES": "300000"}
    with ImgsimServer(tmp_path_factory.mktemp("importing") / "data", settings) as server:
        yield server


@pytest.fixture
def client(importing: ImgsimServer) -> Iterator[httpx.Client]:
    with importing.client() as client:
        yield client


def picture(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng([9, seed]).integers(0, 256, (24, 32, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return out.getvalue()


def send(client: httpx.Client, name: str, data: bytes, **fields: Any) -> httpx.Response:
    return client.post("/imports", files={"file": (name, data)}, data=fields)


def finished(client: httpx.Client, started: httpx.Response, state: str = "done") -> Json:
    assert started.status_code == 202, started.text
    location = started.headers["location"]
    assert location == f"/imports/{started.json()['id']}"
    until(lambda: client.get(location).json()["state"] != "running")
    ended: Json = client.get(location).json()
    assert ended["state"] == state, ended
    return ended


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def counts(ended: Json) -> tuple[int, ...]:
    return tuple(ended[name] for name in ("indexed", "already_there", "not_images", "failed", "pending"))


def assert_problem(refused: httpx.Response, status: int, code: str, *words: str) -> None:
    assert refused.status_code == status, refused.text
    assert refused.json()["type"] == f"urn:imgsim:error:{code}"
    for word in words:
        assert word in refused.json()["detail"]


# what comes in


@pytest.mark.parametrize(("name", "pack"), [("p.zip", zipped), ("p.tar.gz", tarred)])
def test_the_images_of_an_archive_are_indexed_and_the_rest_is_told(
    client: httpx.Client, name: str, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    members = {f"holiday/{seed}.png": picture(seed) for seed in range(5)}
    bad = {"broken.png": picture(6)[:200], "large.png": picture(7) + bytes(300_000), "notes.txt": b"no image"}
    data = pack({**members, **bad})

    ended = finished(client, send(client, name, data, collection=name, tags=["sea", "2026"]))

    assert counts(ended) == (5, 0, 1, 2, 0)
    assert (ended["seen"], ended["source"], ended["tags"], ended["reason"]) == (8, name, ["sea", "2026"], None)
    assert ended["total"] == (8 if name == "p.zip" else None)
    reasons = {each["source"]: each["type"] for each in ended["failures"]}
    assert reasons == {f"{name}/broken.png": "broken-image", f"{name}/large.png": "too-large"}
    lines = client.get(f"/imports/{ended['id']}/failures")
    assert lines.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line) for line in lines.text.splitlines()] == ended["failures"]
    images = client.get("/images", params={"collection": name}).json()["images"]
    assert {image["filename"] for image in images} == {f"{seed}.png" for seed in range(5)}
    assert {image["metadata"]["path"] for image in images} == {f"{name}/holiday/{seed}.png" for seed in range(5)}
    assert all((image["state"], image["tags"]) == ("done", ["sea", "2026"]) for image in images)

    again = finished(client, send(client, name, data, collection=name))
    assert counts(again) == (0, 5, 1, 2, 0)
    assert [each["id"] for each in client.get("/imports").json()["imports"]][:2] == [again["id"], ended["id"]]


def test_copies_are_left_out_of_an_import_that_asks_for_it(client: httpx.Client, photos: list[Path]) -> None:
    half = io.BytesIO()
    with Image.open(photos[0]) as photo:
        photo.resize((photo.width // 2, photo.height // 2)).save(half, "JPEG")
    album = zipped({"photo.jpg": photos[0].read_bytes(), "half.jpg": half.getvalue()})
    refused = send(client, "album.zip", album, collection="once", on_copy="perhaps")
    assert_problem(refused, 400, "invalid-request", "on_copy")
    ended = finished(client, send(client, "album.zip", album, collection="once", on_copy="reject"))
    assert (ended["indexed"], ended["rejected"], ended["seen"]) == (1, 1, 2)
    kept = finished(client, send(client, "album.zip", album, collection="twice", on_copy="flag"))
    assert (kept["indexed"], kept["rejected"]) == (2, 0)
    flagged = client.get("/images", params={"collection": "twice", "tag": "copy"}).json()["images"]
    assert len(flagged) == 1


def test_a_table_of_urls_says_what_is_known_of_the_images(client: httpx.Client) -> None:
    pictures = {f"/{seed}.png": picture(100 + seed) for seed in range(3)}

    def script(request: Request) -> Iterable[bytes]:
        found = pictures.get(request.path)
        return [answer(found) if found else answer(b"", 404)]

    with ScriptedServer(script) as server:
        rows = [f"{server.url}/{seed}.png,tag{seed},{seed}" for seed in range(4)]
        table = "\n".join(["url,tags,album", *rows])
        ended = finished(client, send(client, "t.csv", table.encode(), collection="table", tags=["all"]))
        listed = "\n".join(f"{server.url}/{seed}.png" for seed in range(4))
        again = finished(client, send(client, "urls.txt", listed.encode(), collection="table"))

    assert counts(ended) == (3, 0, 0, 1, 0)
    assert ended["failures"][0] == {
        "source": f"{server.url}/3.png",
        "reason": "The server of the URL answered with the status 404.",
        "type": "fetch-failed",
    }
    images = client.get("/images", params={"collection": "table"}).json()["images"]
    found = {(*image["tags"], image["metadata"]["album"], image["filename"]) for image in images}
    assert found == {("all", f"tag{seed}", seed, f"{seed}.png") for seed in range(3)}
    assert counts(again) == (0, 3, 0, 1, 0)


def test_the_files_of_the_server_are_not_read_for_a_client(client: httpx.Client, photos: list[Path]) -> None:
    assert_problem(send(client, "t.csv", f"path\n{photos[0]}\n".encode()), 400, "invalid-request", "column 'path'")
    table = f"url\n{photos[0]}\nfile://{photos[0]}\n"
    ended = finished(client, send(client, "t.csv", table.encode(), collection="stolen"))
    assert counts(ended) == (0, 0, 0, 2, 0)
    assert {each["type"] for each in ended["failures"]} == {"forbidden"}


# what is refused


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("x.zip", b"junk", "no zip file"),
        ("x.tar", b"junk" * 1000, "no tar file"),
        ("x.tgz", b"\x1f\x8b" + b"junk" * 100, "no tar file"),
        ("x.csv", b"name\nx\n", "It has: 'name'"),
        ("x.csv", b"", "It has: none"),
        ("x.parquet", b"PAR1", "no Parquet file"),
        ("x.jpg", b"", "ends in none of .zip"),
        ("", b"", "ends in none of .zip"),
    ],
)
def test_what_cannot_be_imported_is_refused_at_once(client: httpx.Client, name: str, data: bytes, words: str) -> None:
    sent = client.post("/imports", files={"file": (name or "x", data)})
    assert_problem(sent, 400, "invalid-request", words)


def test_forms_that_do_not_fit_are_refused(client: httpx.Client) -> None:
    good = zipped({})
    assert_problem(client.post("/imports", json={}), 400, "invalid-request", "multipart/form-data")
    assert_problem(client.post("/imports", files={"tags": (None, "x")}), 400, "invalid-request", "either a file")
    assert_problem(send(client, "x.zip", good, colection="x"), 400, "invalid-request", "no field 'colection'")
    assert_problem(send(client, "x.zip", good, collection="two words"), 400, "invalid-request", "collection")
    assert_problem(send(client, "x.zip", good, tags=[""] * 2 + ["x" * 300]), 400, "invalid-request", "tag")
    both = client.post("/imports", files={"file": ("x.zip", good)}, data={"url": "s3://b"})
    assert_problem(both, 400, "invalid-request", "either a file")
    assert_problem(client.post("/imports", files={"url": (None, "http://x")}), 400, "invalid-request", "s3://bucket")
    assert_problem(client.post("/imports", files={"url": (None, "s3://b/x")}), 403, "forbidden", "imports.s3")
    assert_problem(client.get(f"/imports/{UNKNOWN}"), 404, "import-not-found", UNKNOWN)
    assert_problem(client.get(f"/imports/{UNKNOWN}/failures"), 404, "import-not-found")
    assert_problem(client.delete(f"/imports/{UNKNOWN}"), 404, "import-not-found")


def test_a_file_beyond_the_limit_is_refused_and_leaves_nothing(importing: ImgsimServer, client: httpx.Client) -> None:
    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.zip"\r\n\r\n'
        for _ in range(5):
            yield bytes(1_000_000)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    refused = client.post("/imports", content=body(), headers=headers)
    assert_problem(refused, 413, "too-large", "imports.max_bytes", "3000000")
    assert list((importing.data_dir / "imports").iterdir()) == []
    assert finished(client, send(client, "x.zip", zipped({})))["seen"] == 0  # its place is free again


@pytest.mark.parametrize(
    ("before", "name", "words"),
    [("", "x.jpg", "ends in none of .zip"), ("two words", "x.zip", "collection"), ("", "x.zip", None)],
)
def test_what_the_head_of_a_form_shows_is_refused_before_the_file_is_read(
    client: httpx.Client, before: str, name: str, words: str | None
) -> None:
    """The file is larger than what is taken, which is what is said of it otherwise."""

    def body() -> Iterator[bytes]:
        if before:
            yield f'--b\r\nContent-Disposition: form-data; name="collection"\r\n\r\n{before}\r\n'.encode()
        yield f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        for _ in range(5):
            yield bytes(1_000_000)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    refused = client.post("/imports", content=body(), headers=headers)
    if words is None:
        assert_problem(refused, 413, "too-large")
    else:
        assert_problem(refused, 400, "invalid-request", words)


# many at once, and the end


def held(release: Callable[[], bool]) -> ScriptedServer:
    """Answers nothing until it may."""

    def script(request: Request) -> Iterable[bytes]:
        until(release)
        return [answer(picture(int(request.path.strip("/"))))]

    return ScriptedServer(script)


def test_one_too_many_is_refused_and_one_that_is_stopped_says_what_is_left(
    client: httpx.Client, tmp_path: Path
) -> None:
    with held(lambda: (tmp_path / "go").exists()) as server:
        urls = "\n".join(f"{server.url}/{200 + number}" for number in range(50)).encode()
        started = send(client, "urls.txt", urls, collection="held")
        until(lambda: len(server.requests) >= 8)

        refused = send(client, "x.zip", zipped({}))
        assert_problem(refused, 503, "overloaded", "imports.at_once")
        assert int(refused.headers["retry-after"]) > 0
        # People are served meanwhile.
        assert client.post("/images/upload", files={"file": picture(300)}).status_code == 202

        (tmp_path / "go").touch()
        stopped = client.delete(started.headers["location"]).json()
        assert (stopped["state"], stopped["reason"]) == ("stopped", "It was stopped.")
        assert stopped["indexed"] + stopped["pending"] <= 16
        assert client.delete(started.headers["location"]).json() == stopped
        again = finished(client, send(client, "urls.txt", urls, collection="held"))
    assert again["indexed"] + again["already_there"] == 50
    assert again["already_there"] >= stopped["indexed"] + stopped["pending"]
    assert len(client.get("/images", params={"collection": "held", "limit": 100}).json()["images"]) == 50


@pytest.mark.parametrize("way", ["SIGTERM", "kill -9"])
def test_an_import_that_a_restart_cuts_off_is_sent_again(tmp_path: Path, way: str) -> None:
    data = zipped({f"{seed}.png": picture(1000 + seed) for seed in range(80)})
    with ImgsimServer(tmp_path / "data", SETTINGS) as server:
        with server.client() as client:
            started = send(client, "p.zip", data)
            until(lambda: client.get(started.headers["location"]).json()["indexed"] >= 10)
            if way == "SIGTERM":
                assert server.terminate() == 0
                assert "Traceback" not in server.log.read_text()
            else:
                server.kill()
        assert list((server.data_dir / "imports").iterdir()) == []
        server.start()
        with server.client() as client:
            assert client.get("/imports").json()["imports"] == []
            again = finished(client, send(client, "p.zip", data))
            assert again["indexed"] + again["already_there"] == 80
            assert again["already_there"] >= 10
            assert again["failed"] == 0


def test_large_files_go_to_the_disk_and_not_to_memory(tmp_path: Path) -> None:
    """Half a gigabyte that holds one picture."""
    with ImgsimServer(tmp_path / "data", SETTINGS) as server, server.client() as client:
        before = psutil.Process(server.process.pid).memory_info().rss
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("a.png", picture(1))
        tail = out.getvalue()

        def body() -> Iterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.zip"\r\n\r\n'
            for _ in range(500):
                yield bytes(1 << 20)
            yield tail + b"\r\n--b--\r\n"

        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        ended = finished(client, client.post("/imports", content=body(), headers=headers, timeout=60))
        assert counts(ended) == (1, 0, 0, 0, 0)
        assert psutil.Process(server.process.pid).memory_info().rss - before < 100 << 20


def test_a_bucket_is_imported_where_the_setting_allows_it(tmp_path: Path, seaweedfs: SeaweedFS) -> None:
    bucket, s3 = "imports-http", seaweedfs.client()
    s3.create_bucket(Bucket=bucket)
    for number, key in enumerate(("open/a.png", "open/über den wolken/b c.png", "open/notes.txt", "shut/c.png")):
        s3.put_object(Bucket=bucket, Key=key, Body=b"text" if key.endswith("txt") else picture(2000 + number))
    allowed = f"s3://{bucket}/open?endpoint={seaweedfs.endpoint}"
    settings = SETTINGS | dict(seaweedfs.environment) | {"IMGSIM_IMPORTS__S3": allowed}
    with ImgsimServer(tmp_path / "data", settings) as server, server.client() as client:
        started = client.post("/imports", files={"url": (None, f"s3://{bucket}/open")}, data={"tags": "b"})
        assert counts(finished(client, started)) == (2, 0, 1, 0, 0)
        images = client.get("/images").json()["images"]
        assert {image["filename"] for image in images} == {"a.png", "b c.png"}
        refused = client.post("/imports", files={"url": (None, f"s3://{bucket}/shut")})
        assert_problem(refused, 403, "forbidden", "imports.s3")
