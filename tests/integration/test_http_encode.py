"""``POST /encode``: embeddings of what is sent, one by one, together, and for many at once."""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imgsim.adapters.embedding import wire
from tests.processes import ImgsimServer

Json = dict[str, Any]
Vectors = NDArray[np.float32]

DIMENSIONS = 1280
CLIENTS = 32


@pytest.fixture(scope="module")
def images(photos: list[Path]) -> list[bytes]:
    """64 photographs."""
    return [path.read_bytes() for path in photos[:64]]


@pytest.fixture(scope="module")
def expected(server: ImgsimServer, images: list[bytes]) -> Vectors:
    """``(64, d)``: the answers to one request after the other."""
    with server.client() as client:
        return np.array([client.post("/encode", content=image).json()["embedding"] for image in images], np.float32)


def files(images: list[bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", (f"{number}.jpg", image)) for number, image in enumerate(images)]


def assert_problem(response: httpx.Response, status: int) -> Json:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: Json = response.json()
    return problem


@pytest.mark.parametrize("content_type", ["image/jpeg", "image/png", "application/octet-stream", "text/plain", None])
def test_a_raw_body_is_an_image_whatever_its_header_says(
    client: httpx.Client, images: list[bytes], expected: Vectors, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = client.post("/encode", content=images[0], headers=headers)
    assert response.status_code == 200
    answer = response.json()
    assert list(answer) == ["model", "dimensions", "embedding"]
    assert (answer["model"], answer["dimensions"]) == ("efficientnet-lite0@1", DIMENSIONS)
    np.testing.assert_allclose(answer["embedding"], expected[0], atol=1e-5)


def test_one_file_gives_one_embedding(client: httpx.Client, images: list[bytes], expected: Vectors) -> None:
    answer = client.post("/encode", files=files(images[:1])).json()
    assert "embeddings" not in answer
    np.testing.assert_allclose(answer["embedding"], expected[0], atol=1e-5)


def test_many_files_give_embeddings_in_the_order_sent(
    client: httpx.Client, images: list[bytes], expected: Vectors
) -> None:
    answer = client.post("/encode", files=files(images)).json()
    assert list(answer) == ["model", "dimensions", "embeddings"]
    np.testing.assert_allclose(answer["embeddings"], expected, atol=1e-5)


def test_the_model_describes_itself(client: httpx.Client) -> None:
    assert client.get("/encode").raise_for_status().json() == {
        "model": "efficientnet-lite0@1",
        "dimensions": DIMENSIONS,
        "preprocessing": "squash-bicubic-224@2",
        "input_size": 224,
        "supports_text": False,
    }


def test_decoded_pictures_are_embedded_as_they_are(
    client: httpx.Client, images: list[bytes], expected: Vectors
) -> None:
    pictures = [np.array(Image.open(io.BytesIO(image)).convert("RGB")) for image in images[:5]]
    headers = {"Content-Type": wire.PIXELS}
    several = client.post("/encode", content=wire.pack(pictures), headers=headers).raise_for_status().json()
    single = client.post("/encode", content=wire.pack(pictures[:1]), headers=headers).raise_for_status().json()
    np.testing.assert_allclose(several["embeddings"], expected[:5], atol=2e-2)  # files are read at a smaller size
    np.testing.assert_allclose(single["embedding"], several["embeddings"][0], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"hello", 422),
        (b"\xff" * 8, 422),
        (b"\xff\xff\0\0" * 2 + bytes(100), 422),
        (bytes(8), 422),
        ((b"\1\0\0\0" * 2 + bytes(3)) * 65, 400),
        (bytes(wire.LARGEST_BODY + 1), 413),
        (wire.pack([np.zeros((1, 22_000_000, 3), np.uint8)]), 422),
    ],
    ids=["empty", "text", "no pixels", "too few", "no sides", "65 pictures", "too large", "too long"],
)
def test_pixels_that_do_not_fit_are_refused(client: httpx.Client, body: bytes, status: int) -> None:
    assert_problem(client.post("/encode", content=body, headers={"Content-Type": wire.PIXELS}), status)


@pytest.mark.parametrize("shape", [(1, 22_000_000, 3), (22_000_000, 1, 3), (7168, 3000, 3), (3000, 7168, 3)])
def test_no_pixels_take_much_more_memory_than_they_are(packaged: ImgsimServer, shape: tuple[int, int, int]) -> None:
    body = wire.pack([np.zeros(shape, np.uint8)])
    with packaged.client() as client:
        client.post("/encode", content=wire.pack([PIXEL]), headers={"Content-Type": wire.PIXELS}).raise_for_status()
        before = peak_bytes(packaged)
        answer = client.post("/encode", content=body, headers={"Content-Type": wire.PIXELS})
        assert answer.status_code == (200 if max(shape) == 7168 else 422)
        assert peak_bytes(packaged) - before < 3 * wire.LARGEST_BODY


PIXEL = np.zeros((1, 1, 3), np.uint8)


@pytest.fixture
def packaged(tmp_path: Path) -> Iterator[ImgsimServer]:
    """An embedder of the test's own."""
    with ImgsimServer(tmp_path / "embedder", role="embedder") as running:
        yield running


def peak_bytes(server: ImgsimServer) -> int:
    """The most memory that the process has had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def test_more_than_64_files_are_refused(client: httpx.Client, images: list[bytes]) -> None:
    assert "64" in assert_problem(client.post("/encode", files=files([*images, images[0]])), 400)["detail"]


def test_embeddings_have_unit_length_and_differ(expected: Vectors) -> None:
    assert expected.shape == (64, DIMENSIONS)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    assert len(np.unique(expected.round(4), axis=0)) == 64


@pytest.mark.parametrize("count", [1, 5])
def test_raw_floats_are_the_same_numbers(
    client: httpx.Client, images: list[bytes], expected: Vectors, count: int
) -> None:
    headers = {"Accept": "application/octet-stream"}
    response = client.post("/encode", files=files(images[:count]), headers=headers)
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["x-imgsim-model"] == "efficientnet-lite0@1"
    assert response.headers["x-imgsim-dimensions"] == str(DIMENSIONS)
    rows = np.frombuffer(response.content, "<f4").reshape(count, DIMENSIONS)
    np.testing.assert_allclose(rows, expected[:count], atol=1e-5)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html", "application/json"),
        ("image/png, application/octet-stream;q=0.9", "application/octet-stream"),
        ("", "application/json"),
    ],
)
def test_json_is_the_answer_unless_raw_floats_are_asked_for(
    client: httpx.Client, images: list[bytes], accept: str, content_type: str
) -> None:
    response = client.post("/encode", content=images[0], headers={"Accept": accept})
    assert (response.status_code, response.headers["content-type"]) == (200, content_type)


def test_errors_are_problems_also_for_who_wants_raw_floats(client: httpx.Client) -> None:
    assert_problem(client.post("/encode", content=b"hello", headers={"Accept": "application/octet-stream"}), 415)


def test_the_same_picture_has_the_same_embedding_in_any_lossless_format(
    client: httpx.Client, images: list[bytes]
) -> None:
    answers = []
    for kind, options in (("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        out = io.BytesIO()
        Image.open(io.BytesIO(images[3])).convert("RGB").save(out, kind, **options)
        answers.append(client.post("/encode", content=out.getvalue()).json()["embedding"])
    np.testing.assert_allclose(answers, [answers[0]] * 4, atol=1e-5)


@pytest.mark.parametrize("text", ["a cat", ["a cat", "a dog"]])
def test_a_text_is_422_and_says_which_models_can(client: httpx.Client, text: str | list[str]) -> None:
    problem = assert_problem(client.post("/encode", json={"text": text}), 422)
    assert problem["type"] == "urn:imgsim:error:text-not-supported"
    assert "open_clip" in problem["detail"]


@pytest.mark.parametrize(
    "body",
    [{}, {"text": None}, {"text": 1}, {"text": []}, {"text": ["x"] * 65}, {"image": "x"}, [], {"url": "x"}],
)
def test_json_that_does_not_fit_is_refused(client: httpx.Client, body: Any) -> None:
    assert_problem(client.post("/encode", json=body), 400)


@pytest.mark.parametrize("data", [b"", b"hello", os.urandom(1000)])
def test_a_body_that_is_no_image_is_refused(client: httpx.Client, data: bytes) -> None:
    assert_problem(client.post("/encode", content=data), 415)


def test_a_broken_image_is_refused(client: httpx.Client, images: list[bytes]) -> None:
    assert_problem(client.post("/encode", content=images[0][:2000]), 422)


@pytest.mark.parametrize(("bad", "status"), [(b"hello", 415), (b"", 415), (b"\xff\xd8\xff\xe0broken", 422)])
def test_one_bad_file_among_good_ones_is_named(
    client: httpx.Client, images: list[bytes], bad: bytes, status: int
) -> None:
    problem = assert_problem(client.post("/encode", files=files([*images[:2], bad, *images[2:4]])), status)
    assert problem["detail"].startswith("File 3 of 5: ")


def test_a_form_without_a_file_or_with_another_field_is_refused(client: httpx.Client, images: list[bytes]) -> None:
    assert_problem(client.post("/encode", files={"image": images[0]}), 400)
    assert_problem(client.post("/encode", files={"file": images[0]}, data={"collection": "x"}), 400)
    body = b"--B--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    assert_problem(client.post("/encode", content=body, headers=headers), 400)


def test_many_clients_at_once_each_get_their_own_answer(
    server: ImgsimServer, images: list[bytes], expected: Vectors
) -> None:
    def ask(number: int) -> list[float]:
        with server.client() as client:
            mine = [(number * 7 + step) % 64 for step in range(4)]
            errors = []
            for which in mine:
                got = client.post("/encode", content=images[which]).raise_for_status().json()["embedding"]
                errors.append(float(np.abs(np.array(got) - expected[which]).max()))
            return errors

    with ThreadPoolExecutor(CLIENTS) as pool:
        errors = [error for some in pool.map(ask, range(CLIENTS)) for error in some]
    assert len(errors) == 4 * CLIENTS
    assert max(errors) < 1e-5


def test_a_bad_image_among_many_clients_fails_alone(
    server: ImgsimServer, images: list[bytes], expected: Vectors
) -> None:
    def ask(number: int) -> tuple[int, Any]:
        with server.client() as client:
            response = client.post("/encode", content=b"hello" if number % 4 == 0 else images[number])
            return response.status_code, response.json().get("embedding")

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(ask, range(CLIENTS)))
    for number, (status, embedding) in enumerate(answers):
        assert status == (415 if number % 4 == 0 else 200)
        if embedding:
            np.testing.assert_allclose(embedding, expected[number], atol=1e-5)
