"""``/images`` over HTTP: what may be uploaded, what is refused and how, and the life of an image."""

import hashlib
import io
import itertools
import json
import re
import socket
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from tests.processes import ImgsimServer, wait_until_at_rest

Json = dict[str, Any]

KEYS = [
    "id", "collection", "state", "stage", "duplicate", "sha256", "filename", "content_type", "bytes", "width", "height",
    "tags", "metadata", "attempts", "error", "embedding", "features", "created_at", "updated_at", "on_copy", "states",
]  # fmt: skip
STATES = ("created", "pending", "embedding", "indexing", "done")
UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
UNKNOWN = "01900000-0000-7000-8000-000000000000"

_collections = (f"images-{number}" for number in itertools.count())


@pytest.fixture
def collection() -> str:
    """A collection that no other test uses."""
    return next(_collections)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server that takes 20,000 bytes and 10,000 pixels."""
    limits = {
        "IMGSIM_UPLOAD__MAX_BYTES": "20000",
        "IMGSIM_UPLOAD__MAX_PIXELS": "10000",
        "IMGSIM_EMBEDDER__URL": "colour:",
    }
    with ImgsimServer(tmp_path_factory.mktemp("strict") / "data", limits) as server, server.client() as client:
        yield client


def picture(seed: int, size: tuple[int, int] = (64, 48), kind: str = "PNG") -> bytes:
    """An image file like no other seed's."""
    width, height = size
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()


def upload(client: httpx.Client, data: bytes, name: str = "photo.jpg", **fields: Any) -> httpx.Response:
    return client.post("/images/upload", files={"file": (name, data)}, data=fields)


def uploaded(client: httpx.Client, data: bytes, **fields: Any) -> Json:
    """The image once it is done."""
    response = upload(client, data, **fields)
    assert response.status_code == 202, response.text
    image = wait_until_at_rest(client, response.json()["id"])
    assert image["state"] == "done", image
    return image


def assert_problem(response: httpx.Response, status: int) -> Json:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: Json = response.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:imgsim:error:")
    assert problem["title"]
    assert problem["detail"]
    assert "Traceback" not in response.text
    return problem


# upload


def test_an_upload_answers_202_with_the_image_and_where_to_find_it(
    client: httpx.Client, photos: list[Path], collection: str
) -> None:
    data = photos[0].read_bytes()
    before = datetime.now(UTC)
    response = upload(
        client, data, "cat.jpg", collection=collection, tags=["b", "a", "b"], metadata='{"album": {"n": 7}}'
    )
    assert response.status_code == 202
    image = response.json()
    assert list(image) == KEYS
    assert response.headers["location"] == f"/images/{image['id']}"
    assert uuid.UUID(image["id"]).version == 7
    assert image["state"] in STATES
    width, height = Image.open(photos[0]).size
    assert {key: image[key] for key in KEYS[4:13]} == {
        "duplicate": False,
        "sha256": hashlib.sha256(data).hexdigest(),
        "filename": "cat.jpg",
        "content_type": "image/jpeg",
        "bytes": len(data),
        "width": width,
        "height": height,
        "tags": ["b", "a"],
        "metadata": {"album": {"n": 7}},
    }
    assert (image["collection"], image["error"], image["embedding"], image["features"]) == (collection, None, None, {})
    for key in ("created_at", "updated_at"):
        assert UTC_TIME.fullmatch(image[key]), image[key]
        moment = datetime.fromisoformat(image[key])
        assert before - timedelta(milliseconds=1) <= moment <= datetime.now(UTC)


def test_an_image_that_is_done_says_by_which_model(client: httpx.Client, photos: list[Path], collection: str) -> None:
    image = uploaded(client, photos[1].read_bytes(), collection=collection)
    assert list(image) == KEYS
    assert image["embedding"] == {"model": "efficientnet-lite0@1", "dimensions": 1280}
    assert (image["stage"], image["error"], image["attempts"]) == (None, None, 1)
    assert image["updated_at"] > image["created_at"]
    assert list(image["states"]) == [*STATES]
    times = [datetime.fromisoformat(time) for time in image["states"].values()]
    assert times == sorted(times)
    assert (image["states"]["created"], image["states"]["done"]) == (image["created_at"], image["updated_at"])


def test_the_embedding_itself_comes_on_request(client: httpx.Client, photos: list[Path], collection: str) -> None:
    image = uploaded(client, photos[1].read_bytes(), collection=collection)
    embedding = client.get(f"/images/{image['id']}", params={"vector": "true"}).json()["embedding"]
    assert embedding["model"] == "efficientnet-lite0@1"
    assert len(embedding["vector"]) == embedding["dimensions"] == 1280
    assert np.linalg.norm(embedding["vector"]) == pytest.approx(1.0, abs=1e-5)


def test_what_is_left_out_has_defaults(client: httpx.Client) -> None:
    image = upload(client, picture(1)).json()
    assert (image["collection"], image["tags"], image["metadata"]) == ("default", [], {})


FORMATS = {
    "image/jpeg": ("JPEG", {}),
    "image/png": ("PNG", {}),
    "image/webp": ("WEBP", {}),
    "image/gif": ("GIF", {}),
    "image/bmp": ("BMP", {}),
    "image/tiff": ("TIFF", {}),
    "image/heic": ("HEIF", {}),
    "image/avif": ("AVIF", {}),
}


@pytest.mark.parametrize("content_type", FORMATS)
def test_a_format_is_known_by_its_content_whatever_name_and_header_say(
    client: httpx.Client, photos: list[Path], collection: str, content_type: str
) -> None:
    pillow_heif.register_heif_opener()
    name, options = FORMATS[content_type]
    out = io.BytesIO()
    Image.open(photos[2]).resize((200, 150)).save(out, name, **options)
    response = client.post(
        "/images/upload",
        files={"file": ("notes.txt", out.getvalue(), "text/plain")},
        data={"collection": collection},
    )
    assert response.status_code == 202, response.text
    image = wait_until_at_rest(client, response.json()["id"])
    assert image["state"] == "done", image
    assert (image["content_type"], image["width"], image["height"]) == (content_type, 200, 150)
    assert image["filename"] == "notes.txt"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(
    client: httpx.Client, photos: list[Path], collection: str, kind: str
) -> None:
    first, second = (Image.open(path).convert("RGB").resize((160, 120)) for path in (photos[0], photos[40]))
    out = io.BytesIO()
    first.save(out, kind, save_all=True, append_images=[second, second], duration=100, lossless=True)
    animated = uploaded(client, out.getvalue(), collection=collection)
    stills = []
    for frame in (first, second):
        still = io.BytesIO()
        frame.save(still, "PNG")
        stills.append(uploaded(client, still.getvalue(), collection=collection)["id"])
    found = client.get(f"/images/{animated['id']}/similar").json()["results"]
    assert [hit["image"]["id"] for hit in found] == stills
    assert found[0]["score"] > 0.85


def test_width_and_height_are_those_of_the_upright_picture(client: httpx.Client, collection: str) -> None:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(picture(3, (80, 60)))).save(out, "JPEG", exif=exif)
    image = upload(client, out.getvalue(), collection=collection).json()
    assert (image["width"], image["height"]) == (60, 80)


# duplicates


def test_identical_bytes_in_a_collection_are_the_same_image(client: httpx.Client, collection: str) -> None:
    first = uploaded(client, picture(4), collection=collection, tags=["kept"])
    again = upload(client, picture(4), "other.png", collection=collection, tags=["ignored"])
    assert again.status_code == 200
    assert again.headers["location"] == f"/images/{first['id']}"
    assert again.json() == {**first, "duplicate": True}
    assert client.get(f"/images/{first['id']}").json()["duplicate"] is False
    assert len(client.get("/images", params={"collection": collection}).json()["images"]) == 1


def test_identical_bytes_in_another_collection_are_another_image(client: httpx.Client, collection: str) -> None:
    first = uploaded(client, picture(5), collection=collection)
    second = uploaded(client, picture(5), collection=f"{collection}-b")
    assert second["id"] != first["id"]
    assert second["duplicate"] is False
    assert second["sha256"] == first["sha256"]


def test_no_image_is_embedded_twice(server: ImgsimServer, client: httpx.Client, collection: str) -> None:
    """The embedding of known bytes is taken from the cache: what is put there comes back."""
    first = uploaded(client, picture(6), collection=collection)
    mark = np.zeros(1280, "<f4")
    mark[7] = 1.0
    with sqlite3.connect(server.data_dir / "imgsim.sqlite", timeout=30) as database:
        changed = database.execute(
            "UPDATE cached_embedding SET vector = ? WHERE sha256 = ?", (mark.tobytes(), first["sha256"])
        )
        assert changed.rowcount == 1
    database.close()
    second = uploaded(client, picture(6), collection=f"{collection}-b")
    vector = client.get(f"/images/{second['id']}", params={"vector": "true"}).json()["embedding"]["vector"]
    np.testing.assert_allclose(vector, mark, atol=1e-6)


def test_duplicates_run_no_stage(client: httpx.Client, collection: str) -> None:
    first = uploaded(client, picture(7), collection=collection)
    upload(client, picture(7), collection=collection)
    assert client.get(f"/images/{first['id']}").json()["attempts"] == 1


def test_a_deleted_image_can_be_uploaded_again(client: httpx.Client, collection: str) -> None:
    first = uploaded(client, picture(8), collection=collection)
    assert client.delete(f"/images/{first['id']}").status_code == 204
    second = uploaded(client, picture(8), collection=collection)
    assert second["id"] != first["id"]
    assert second["duplicate"] is False


# what is refused


def test_a_file_of_too_many_bytes_is_refused_with_its_limit(strict: httpx.Client) -> None:
    problem = assert_problem(upload(strict, b"\xff\xd8\xff" + bytes(20_000)), 413)
    assert problem["type"] == "urn:imgsim:error:too-large"
    assert "20000" in problem["detail"]
    assert "upload.max_bytes" in problem["detail"]


def test_a_body_without_a_length_is_bounded_too(strict: httpx.Client) -> None:
    def body() -> Iterator[bytes]:
        yield b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        for _ in range(100):
            yield bytes(1000)
        yield b"\r\n--B--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    assert_problem(strict.post("/images/upload", content=body(), headers=headers), 413)
    assert_problem(strict.post("/encode", content=(bytes(1000) for _ in range(100))), 413)


def test_a_body_that_announces_too_much_is_refused_before_it_comes(server: ImgsimServer) -> None:
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        head = f"POST /images/upload HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\nContent-Length: {1 << 40}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_an_upload_of_exactly_the_limit_is_taken(strict: httpx.Client) -> None:
    data = picture(9, (32, 32), "JPEG")
    assert upload(strict, data + bytes(20_000 - len(data))).status_code == 202


def test_a_picture_of_too_many_pixels_is_refused_with_its_limit(strict: httpx.Client) -> None:
    problem = assert_problem(upload(strict, picture(10, (101, 100), "JPEG")), 422)
    assert problem["type"] == "urn:imgsim:error:too-many-pixels"
    assert "101 x 100" in problem["detail"]
    assert "upload.max_pixels" in problem["detail"]
    assert upload(strict, picture(10, (100, 100), "JPEG")).status_code == 202


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"%PDF-1.7", b"<svg xmlns='http://www.w3.org/2000/svg'/>", bytes(5000)]
)
def test_what_is_no_image_is_refused_as_such(client: httpx.Client, data: bytes) -> None:
    assert assert_problem(upload(client, data, "photo.jpg"), 415)["type"] == "urn:imgsim:error:unsupported-image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_a_truncated_image_is_refused_and_leaves_nothing(client: httpx.Client, collection: str, kind: str) -> None:
    data = picture(11, (640, 480), kind)
    problem = assert_problem(upload(client, data[: len(data) // 3], collection=collection), 422)
    assert problem["type"] == "urn:imgsim:error:broken-image"
    assert client.get("/images", params={"collection": collection}).json()["images"] == []


def part(disposition: bytes, content: bytes, headers: bytes = b"") -> bytes:
    return b"--B\r\nContent-Disposition: " + disposition + b"\r\n" + headers + b"\r\n" + content + b"\r\n"


def named(name: bytes, value: bytes) -> bytes:
    return part(b'form-data; name="' + name + b'"', value)


FORM = "multipart/form-data; boundary=B"
FILE = part(b'form-data; name="file"; filename="a.png"', picture(12))
END = b"--B--\r\n"
HOSTILE: dict[str, tuple[bytes, bytes]] = {
    "no content type": (b"", FILE + END),
    "a JSON content type": (b"application/json", FILE + END),
    "a form of another kind": (b"application/x-www-form-urlencoded", b"file=x"),
    "a content type that is no text": (b"multipart/form-data; boundary=\xff\xfe", FILE + END),
    "no boundary": (b"multipart/form-data", FILE + END),
    "an empty boundary": (b"multipart/form-data; boundary=", FILE + END),
    "another boundary": (b"multipart/form-data; boundary=X", FILE + END),
    "a boundary of 60,000 characters": (b"multipart/form-data; boundary=" + b"x" * 60_000, FILE + END),
    "an empty body": (FORM.encode(), b""),
    "no part": (FORM.encode(), END),
    "no end": (FORM.encode(), FILE),
    "a body cut off within the file": (FORM.encode(), FILE[:200]),
    "no file": (FORM.encode(), named(b"tags", b"x") + END),
    "an empty file": (FORM.encode(), part(b'form-data; name="file"; filename=""', b"") + END),
    "the file twice": (FORM.encode(), FILE * 2 + END),
    "the file under another name": (FORM.encode(), FILE.replace(b'"file"', b'"image"') + END),
    "a file without a name": (FORM.encode(), FILE.replace(b'name="file"; ', b"") + END),
    "an unknown field": (FORM.encode(), FILE + named(b"colection", b"x") + END),
    "a field twice": (FORM.encode(), FILE + named(b"collection", b"x") * 2 + END),
    "a field name that is not UTF-8": (FORM.encode(), FILE + named(b"\xff\xfe", b"x") + END),
    "a filename that is not UTF-8": (FORM.encode(), FILE.replace(b"a.png", b"\xff\xfe.png") + END),
    "a value that is not UTF-8": (FORM.encode(), FILE + named(b"collection", b"\xff") + END),
    "half a surrogate pair in UTF-8": (FORM.encode(), FILE + named(b"tags", b"\xed\xa0\x80") + END),
    "a huge field": (FORM.encode(), FILE + named(b"metadata", b"x" * 3_000_000) + END),
    "a huge field name": (FORM.encode(), FILE + named(b"x" * 3000, b"x") + END),
    "a huge part header": (FORM.encode(), part(b'form-data; name="file"', b"", b"X: " + b"y" * 99_999 + b"\r\n") + END),
    "a hundred part headers": (FORM.encode(), part(b'form-data; name="file"', b"", b"X: y\r\n" * 100) + END),
    "thousands of parts": (FORM.encode(), FILE + named(b"tags", b"x") * 5000 + END),
    "a part without headers": (FORM.encode(), b"--B\r\n\r\nabc\r\n" + END),
    "a part that is no form data": (FORM.encode(), part(b'attachment; name="file"', b"x") + END),
    "a part that lies about its length": (
        FORM.encode(),
        part(b'form-data; name="file"', b"x", b"Content-Length: 99999999999\r\n") + END,
    ),
    "line feeds alone": (FORM.encode(), (FILE + END).replace(b"\r\n", b"\n")),
    "an empty collection": (FORM.encode(), FILE + named(b"collection", b"") + END),
    "a collection that is a path": (FORM.encode(), FILE + named(b"collection", b"../x") + END),
    "a collection with NUL": (FORM.encode(), FILE + named(b"collection", b"a\0") + END),
    "a collection with a line feed": (FORM.encode(), FILE + named(b"collection", b"a\n") + END),
    "a tag with NUL": (FORM.encode(), FILE + named(b"tags", b"a\0") + END),
    "a tag of 256 characters": (FORM.encode(), FILE + named(b"tags", b"x" * 256) + END),
    "101 tags": (FORM.encode(), FILE + b"".join(named(b"tags", b"%d" % n) for n in range(101)) + END),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_body_is_refused_and_the_server_goes_on(client: httpx.Client, case: str) -> None:
    content_type, body = HOSTILE[case]
    headers = {b"Content-Type": content_type} if content_type else {}
    response = client.post("/images/upload", content=body, headers=headers)
    assert 400 <= response.status_code < 500, response.text
    assert_problem(response, response.status_code)
    assert "Error(" not in response.text, "not a word of Python"
    assert client.get("/health").status_code == 200


METADATA = {
    "no JSON": "{",
    "a list": "[1]",
    "a number": "1",
    "null": "null",
    "NaN": '{"a": NaN}',
    "infinity": '{"a": -Infinity}',
    "a number beyond floats": '{"a": 1e999}',
    "a number of 5000 digits": '{"a": 1' + "0" * 5000 + "}",
    "NUL": '{"a": "\\u0000"}',
    "NUL in a key": '{"\\u0000": 1}',
    "half a surrogate pair": '{"a": "\\ud800"}',
    "half a surrogate pair in a key": '{"\\udfff": 1}',
    "nested a thousand times": '{"a":' + "[" * 1000 + "]" * 1000 + "}",
    "nested 50,000 times": '{"a":' + "[" * 50_000 + "]" * 50_000 + "}",
    "more than 64 KiB": json.dumps({"a": "x" * 70_000}),
}


@pytest.mark.parametrize("case", METADATA)
def test_metadata_that_cannot_be_kept_is_refused(client: httpx.Client, collection: str, case: str) -> None:
    assert_problem(upload(client, picture(13), collection=collection, metadata=METADATA[case]), 400)
    assert client.get("/images", params={"collection": collection}).json()["images"] == []


@pytest.mark.parametrize("case", sorted(METADATA.keys() - {"null"}))
def test_a_change_to_metadata_that_cannot_be_kept_is_refused(client: httpx.Client, case: str) -> None:
    image = uploaded(client, picture(14), metadata='{"kept": true}', collection=next(_collections))
    body = b'{"metadata": ' + METADATA[case].encode() + b"}"
    assert_problem(client.patch(f"/images/{image['id']}", content=body), 400)
    assert client.get(f"/images/{image['id']}").json()["metadata"] == {"kept": True}


def test_metadata_of_any_depth_is_either_refused_or_comes_back(tmp_path: Path) -> None:
    with ImgsimServer(tmp_path / "data", {"IMGSIM_EMBEDDER__URL": "colour:"}) as own, own.client() as client:
        for depth in (10, 100, *range(930, 1000)):
            metadata = '{"a":' + "[" * depth + "]" * depth + "}"
            response = upload(client, picture(30), collection=f"depth-{depth}", metadata=metadata)
            assert response.status_code in (202, 400), depth
            assert client.get("/images").status_code == 200, depth
            assert client.post("/search", files={"file": picture(30)}).status_code == 200, depth


def test_metadata_comes_back_as_it_was_sent(client: httpx.Client, collection: str) -> None:
    metadata = {"text": 'ü 漢 🙂 " \\ \n', "int": 2**53, "float": 0.1, "deep": [[[{"a": None}]]], "": True}
    image = upload(client, picture(15), collection=collection, metadata=json.dumps(metadata)).json()
    assert image["metadata"] == metadata
    assert client.get(f"/images/{image['id']}").json()["metadata"] == metadata


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\a.jpg", "a.jpg"),
        ("/", ""),
        ("a\tb.jpg", "ab.jpg"),
        ("日本語 ü.jpg", "日本語 ü.jpg"),
        ("x" * 300, "x" * 255),
    ],
)
def test_a_filename_is_a_label_and_never_a_path(client: httpx.Client, collection: str, sent: str, kept: str) -> None:
    body = FILE.replace(b"a.png", sent.replace("\\", "\\\\").encode()) + named(b"collection", collection.encode()) + END
    response = client.post("/images/upload", content=body, headers={"Content-Type": FORM})
    assert response.status_code == 202, response.text
    image = response.json()
    assert image["filename"] == kept
    file = client.get(f"/images/{image['id']}/file")
    assert file.status_code == 200
    assert "\n" not in file.headers["content-disposition"]


def test_a_client_that_leaves_in_the_middle_is_no_error_of_the_server(server: ImgsimServer) -> None:
    said = server.log.stat().st_size

    def body() -> Iterator[bytes]:
        yield FILE[:100]
        raise KeyboardInterrupt

    with server.client() as client:
        with pytest.raises(KeyboardInterrupt):
            client.post("/images/upload", content=body(), headers={"Content-Type": FORM})
        wait_for(lambda: in_progress(client, "/images/upload") == 0)
    assert "Traceback" not in server.log.read_text()[said:]


def in_progress(client: httpx.Client, path: str) -> float:
    line = re.search(
        rf'^imgsim_http_requests_in_progress{{.*path="{path}".*}} (\S+)$', client.get("/metrics").text, re.M
    )
    return float(line[1]) if line else 0.0


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not after {seconds} s"


# list


def ids(client: httpx.Client, **params: Any) -> list[str]:
    return [image["id"] for image in client.get("/images", params=params).raise_for_status().json()["images"]]


def test_a_list_is_newest_first_and_has_whole_images(client: httpx.Client, collection: str) -> None:
    sent = [uploaded(client, picture(100 + n), collection=collection) for n in range(4)]
    page = client.get("/images", params={"collection": collection}).json()
    assert page == {"images": sent[::-1], "next_cursor": None}


def test_pages_neither_repeat_nor_skip_while_images_arrive(client: httpx.Client, collection: str) -> None:
    there = [upload(client, picture(200 + n), collection=collection).json()["id"] for n in range(7)]
    seen: list[str] = []
    params: Json = {"collection": collection, "limit": 3}
    for arriving in itertools.count(300):
        page = client.get("/images", params=params).json()
        seen += [image["id"] for image in page["images"]]
        upload(client, picture(arriving), collection=collection)
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert seen == there[::-1]


def test_a_page_that_ends_with_the_list_has_no_cursor(client: httpx.Client, collection: str) -> None:
    for number in range(3):
        upload(client, picture(400 + number), collection=collection)
    assert client.get("/images", params={"collection": collection, "limit": 3}).json()["next_cursor"] is None


def test_a_list_is_filtered_by_collection_state_and_all_of_the_tags(client: httpx.Client, collection: str) -> None:
    red = uploaded(client, picture(500), collection=collection, tags=["red"])["id"]
    both = uploaded(client, picture(501), collection=collection, tags=["red", "round"])["id"]
    plain = uploaded(client, picture(502), collection=collection)["id"]
    assert ids(client, collection=collection) == [plain, both, red]
    assert ids(client, collection=collection, tag="red") == [both, red]
    assert ids(client, collection=collection, tag=["round", "red"]) == [both]
    assert ids(client, collection=collection, tag="re") == []
    assert ids(client, collection=collection, state="done") == [plain, both, red]
    assert ids(client, collection=collection, state="error") == []
    assert ids(client, collection=f"{collection}-none") == []


def test_a_list_is_filtered_by_any_and_no_tag_and_by_date(client: httpx.Client, collection: str) -> None:
    red = uploaded(client, picture(510), collection=collection, tags=["red"])
    both = uploaded(client, picture(511), collection=collection, tags=["red", "round"])
    plain = uploaded(client, picture(512), collection=collection)
    red_id, both_id, plain_id = red["id"], both["id"], plain["id"]
    assert ids(client, collection=collection, any_tag=["round", "square"]) == [both_id]
    assert ids(client, collection=collection, any_tag=["round", "red"]) == [both_id, red_id]
    assert ids(client, collection=collection, not_tag=["round", "square"]) == [plain_id, red_id]
    assert ids(client, collection=collection, tag="red", not_tag="round") == [red_id]
    since = both["created_at"]
    assert ids(client, collection=collection, created_from=since) == [plain_id, both_id]
    assert ids(client, collection=collection, created_to=since) == [red_id]
    assert ids(client, collection=collection, created_from=since, created_to=plain["created_at"]) == [both_id]
    assert ids(client, collection=collection, created_from="2026-01-01", not_tag="red", limit=1) == [plain_id]
    assert ids(client, collection=collection, created_to="2026-01-01") == []


def test_collections_are_listed_while_they_have_images(client: httpx.Client, collection: str) -> None:
    def collections() -> list[str]:
        names: list[str] = client.get("/collections").raise_for_status().json()["collections"]
        return names

    assert collection not in collections()
    image_id = uploaded(client, picture(520), collection=collection)["id"]
    assert collection in collections()
    assert collections() == sorted(set(collections()))
    client.delete(f"/images/{image_id}").raise_for_status()
    assert collection not in collections()


@pytest.mark.parametrize(
    "query",
    ["created_from=x", "created_to=", "created_from=2026-01-01T00:00:00", "created_from=2026-01-01T00:00:00+02:00",
     "created_from=2026-01-02&created_to=2026-01-02", "any_tag=x&any_tag=" + "&any_tag=".join("abcdefghij" * 10),
     "limit=0", "limit=101", "limit=x", "limit=1.5", "state=finished", "cursor=x", "cursor=%00", "cursor=%ff"],
)  # fmt: skip
def test_a_list_parameter_that_does_not_fit_is_named(client: httpx.Client, query: str) -> None:
    problem = assert_problem(client.get(f"/images?{query}"), 400)
    assert query.partition("=")[0] in problem["detail"]


@pytest.mark.parametrize("query", ["collection=%00", "tag=%ed%a0%80", "tag=%ff", "tag=", "collection=" + "x" * 9000])
def test_a_filter_that_nothing_can_match_finds_nothing(client: httpx.Client, query: str) -> None:
    assert client.get(f"/images?{query}").json() == {"images": [], "next_cursor": None}


# file, change, delete, retry


def test_the_file_comes_back_byte_by_byte(client: httpx.Client, photos: list[Path], collection: str) -> None:
    data = photos[5].read_bytes()
    image = upload(client, data, "grün & rot.jpg", collection=collection).json()
    response = client.get(f"/images/{image['id']}/file")
    assert response.content == data
    assert response.headers["content-type"] == "image/jpeg"
    assert response.headers["content-length"] == str(len(data))
    assert response.headers["etag"] == f'"{image["sha256"]}"'
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-disposition"] == "inline; filename*=UTF-8''gr%C3%BCn%20%26%20rot.jpg"
    assert "immutable" in response.headers["cache-control"]


def test_tags_and_metadata_can_be_changed_each_alone(client: httpx.Client, collection: str) -> None:
    image = uploaded(client, picture(17), collection=collection, tags=["old"], metadata='{"a": 1}')
    path = f"/images/{image['id']}"
    changed = client.patch(path, json={"tags": ["new", "new"]}).json()
    assert (changed["tags"], changed["metadata"]) == (["new"], {"a": 1})
    changed = client.patch(path, json={"metadata": {}}).json()
    assert (changed["tags"], changed["metadata"]) == (["new"], {})
    assert changed["updated_at"] > image["updated_at"]
    assert client.get(path).json() == changed
    assert ids(client, collection=collection, tag="old") == []
    assert ids(client, collection=collection, tag="new") == [image["id"]]


def test_changed_tags_are_searched(client: httpx.Client, collection: str) -> None:
    one, other = (uploaded(client, picture(seed), collection=collection)["id"] for seed in (18, 19))
    client.patch(f"/images/{other}", json={"tags": ["found"]})
    found = client.get(f"/images/{one}/similar", params={"tag": "found"}).json()["results"]
    assert [hit["image"]["id"] for hit in found] == [other]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"tags": "a"}', b'{"tags": [1]}', b'{"tags": [""]}', b'{"tags": ["\\u0000"]}',
     b'{"tags": ["\\ud800"]}', b'{"metadata": []}', b'{"state": "done"}', b'{"filename": "x"}', b"\xff"],
)  # fmt: skip
def test_a_change_that_does_not_fit_is_refused(client: httpx.Client, body: bytes) -> None:
    image = upload(client, picture(20)).json()
    assert_problem(client.patch(f"/images/{image['id']}", content=body), 400)


def test_a_deleted_image_is_gone_everywhere(client: httpx.Client, collection: str) -> None:
    kept, gone = (uploaded(client, picture(seed), collection=collection)["id"] for seed in (21, 22))
    response = client.delete(f"/images/{gone}")
    assert (response.status_code, response.content) == (204, b"")
    for path in ("", "/file", "/similar", "/events"):
        assert_problem(client.get(f"/images/{gone}{path}"), 404)
    assert_problem(client.delete(f"/images/{gone}"), 404)
    assert client.get(f"/images/{kept}/similar").json()["results"] == []
    found = client.post("/search", files={"file": picture(22)}, data={"collection": collection}).json()["results"]
    assert [hit["image"]["id"] for hit in found] == [kept]
    assert ids(client, collection=collection) == [kept]


def test_only_an_image_in_error_can_be_retried(client: httpx.Client, collection: str) -> None:
    image = uploaded(client, picture(23), collection=collection)
    problem = assert_problem(client.post(f"/images/{image['id']}/retry"), 409)
    assert problem["type"] == "urn:imgsim:error:wrong-state"
    assert "done" in problem["detail"]


OF_ONE_IMAGE = [
    ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/file"), ("GET", "/similar"), ("GET", "/events"),
    ("POST", "/retry"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), OF_ONE_IMAGE)
def test_an_unknown_id_is_404(client: httpx.Client, method: str, path: str) -> None:
    body = {"json": {}} if method == "PATCH" else {}
    problem = assert_problem(client.request(method, f"/images/{UNKNOWN}{path}", **body), 404)
    assert problem["type"] == "urn:imgsim:error:image-not-found"
    assert UNKNOWN in problem["detail"]


@pytest.mark.parametrize("bad", ["x", "1", "%00", "%ff", UNKNOWN[:-1], f"{UNKNOWN}0", "..%2f..", "'--"])
@pytest.mark.parametrize(("method", "path"), OF_ONE_IMAGE)
def test_what_is_no_id_is_404(client: httpx.Client, method: str, path: str, bad: str) -> None:
    assert_problem(client.request(method, f"/images/{bad}{path}"), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", f"/images/{UNKNOWN}", {"GET", "PATCH", "DELETE"}),
        ("POST", "/images", {"GET"}),
        ("DELETE", "/images", {"GET"}),
        ("GET", "/images/upload", {"POST"}),
        ("DELETE", f"/images/{UNKNOWN}/file", {"GET", "HEAD"}),
        ("GET", f"/images/{UNKNOWN}/retry", {"POST"}),
        ("GET", "/search", {"POST"}),
        ("PUT", "/encode", {"GET", "POST"}),
        ("POST", "/health", {"GET"}),
    ],
)
def test_a_wrong_method_is_405_and_says_which_are_right(
    client: httpx.Client, method: str, path: str, allowed: set[str]
) -> None:
    response = client.request(method, path)
    problem = assert_problem(response, 405)
    assert set(response.headers["allow"].split(", ")) - {"OPTIONS"} == allowed
    assert method in problem["detail"]
