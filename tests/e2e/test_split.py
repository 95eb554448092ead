"""The split deployment as a whole: an API, two workers and an embedder over real servers."""

import hashlib
import io
import time
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pytest

from tests.cluster import Cluster
from tests.processes import wait_until_at_rest

DATA = Path(__file__).parents[1] / "data"
PHOTOS = sorted(DATA.glob("*/*/*.jpg")) + sorted((DATA / "neardup").glob("*.jpg"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings = {"jobs__lease_seconds": 2, "jobs__reconcile_seconds": 0.5}
    with Cluster(tmp_path_factory.mktemp("cluster"), workers=2, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def http(cluster: Cluster) -> Iterator[httpx.Client]:
    with cluster.api.client() as client:
        yield client


@pytest.fixture(scope="module")
def stock(cluster: Cluster, http: httpx.Client) -> Mapping[str, Path]:
    """200 photographs by id, all done, although a worker was killed over them."""
    assert len(PHOTOS) == 200

    def upload(photo: Path) -> str:
        answer = http.post("/images/upload", files={"file": (photo.name, photo.read_bytes())})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    with ThreadPoolExecutor(8) as clients:
        uploads = [clients.submit(upload, photo) for photo in PHOTOS]
        last = uploads[100].result()
        state = http.get(f"/images/{last}").json()["state"]
        cluster.workers[0].kill()
        assert state != "done", "the worker is to die while it works"
        ids = [each.result() for each in uploads]
    for image_id in ids:
        image = wait_until_at_rest(http, image_id, 60)
        assert image["state"] == "done", image
    return dict(zip(ids, PHOTOS, strict=True))


def test_every_photograph_is_done_and_there_once(http: httpx.Client, stock: Mapping[str, Path]) -> None:
    assert len(set(stock)) == 200
    metrics = http.get("/metrics").text
    assert 'imgsim_images{state="done"} 200.0' in metrics
    assert 'imgsim_vectors{model="efficientnet-lite0@1"} 200.0' in metrics


def test_neighbours_are_those_that_the_vectors_say(http: httpx.Client, stock: Mapping[str, Path]) -> None:
    ids = list(stock)
    answers = [http.get(f"/images/{image_id}", params={"vector": True}).json() for image_id in ids]
    vectors = np.array([answer["embedding"]["vector"] for answer in answers], np.float32)
    scores = vectors @ vectors.T
    for position in range(0, len(ids), 8):
        found = http.get(f"/images/{ids[position]}/similar", params={"limit": 10}).json()["results"]
        order = [other for other in np.argsort(-scores[position], kind="stable") if other != position][:10]
        np.testing.assert_allclose([hit["score"] for hit in found], scores[position][order], atol=1e-4)
        expected = {ids[other] for other in order[:9]}  # the tenth may be one of a tie
        assert len(expected & {hit["image"]["id"] for hit in found}) >= 8


def test_neighbours_show_the_same_thing(http: httpx.Client, stock: Mapping[str, Path]) -> None:
    hits, wanted = 0, 0
    for image_id, photo in stock.items():
        if photo.parent.name == "neardup":
            continue
        found = http.get(f"/images/{image_id}/similar", params={"limit": 5}).json()["results"]
        hits += sum(stock[hit["image"]["id"]].parent.name == photo.parent.name for hit in found)
        wanted += len(found)
    assert hits / wanted > 0.75


def test_a_file_comes_from_the_object_store_itself(
    cluster: Cluster, http: httpx.Client, stock: Mapping[str, Path]
) -> None:
    image_id, photo = next(iter(stock.items()))
    answer = http.get(f"/images/{image_id}/file")
    assert answer.status_code == 307
    assert answer.headers["location"].startswith(cluster.seaweedfs.endpoint)
    assert httpx.get(answer.headers["location"]).content == photo.read_bytes()


def test_searches_by_file_agree_with_the_stock(http: httpx.Client, stock: Mapping[str, Path]) -> None:
    image_id, photo = list(stock.items())[-1]
    found = http.post("/search", files={"file": photo.read_bytes()}, data={"limit": 1}).json()["results"]
    assert found[0]["image"]["id"] == image_id
    assert found[0]["score"] > 0.9999


def test_a_presigned_upload_is_processed_like_any_other(http: httpx.Client, stock: Mapping[str, Path]) -> None:
    data = PHOTOS[0].read_bytes() + b"presigned"
    wanted = {"sha256": hashlib.sha256(data).hexdigest(), "content_type": "image/jpeg", "bytes": len(data)}
    wanted |= {"filename": "one.jpg", "collection": "presigned", "tags": ["direct"]}
    announced = http.post("/images/presign", json=wanted)
    assert announced.status_code == 201, announced.text
    todo: dict[str, Any] = announced.json()
    early = http.post(todo["complete"])
    assert (early.status_code, early.json()["type"]) == (409, "urn:imgsim:error:not-uploaded")
    assert http.get(f"/images/{todo['id']}").status_code == 404
    stored = httpx.request(todo["method"], todo["url"], headers=todo["headers"], content=data)
    assert stored.is_success, stored.text
    confirmed = http.post(todo["complete"])
    assert confirmed.status_code == 202, confirmed.text
    image = wait_until_at_rest(http, todo["id"])
    assert (image["state"], image["filename"], image["tags"]) == ("done", "one.jpg", ["direct"])
    assert UUID(str(image["id"])) == UUID(todo["id"])
    again = http.post(todo["complete"])
    assert again.json()["id"] == todo["id"]
    repeat = http.post("/images/presign", json=wanted)
    assert (repeat.status_code, repeat.json()["duplicate"]) == (200, True)
    assert httpx.get(http.get(f"/images/{todo['id']}/file").headers["location"]).content == data


def test_what_is_stored_must_be_what_was_announced(http: httpx.Client, cluster: Cluster) -> None:
    text = b"no image, however it is called" * 100
    wanted = {"sha256": hashlib.sha256(text).hexdigest(), "content_type": "image/jpeg", "bytes": len(text)}
    todo = http.post("/images/presign", json=wanted).json()
    other = httpx.put(todo["url"], headers=todo["headers"], content=text[:-1] + b"!")
    assert other.status_code >= 400
    assert httpx.put(todo["url"], headers=todo["headers"], content=text).is_success
    refused = http.post(todo["complete"])
    assert refused.status_code == 415, refused.text
    assert http.post(todo["complete"]).status_code == 409  # nothing lies there any more
    assert http.get(f"/images/{todo['id']}").status_code == 404


def test_a_workers_event_reaches_the_api_within_a_second(http: httpx.Client, stock: Mapping[str, Path]) -> None:
    data = PHOTOS[1].read_bytes() + b"events"
    answer = http.post("/images/upload", files={"file": ("events.jpg", data)}, data={"collection": "events"})
    with http.stream("GET", f"/images/{answer.json()['id']}/events", timeout=10) as stream:
        lines = [line for line in stream.iter_lines() if line.startswith("event:")]
    assert lines[-1].removeprefix("event:").strip() == "done"
    assert http.get(f"/images/{answer.json()['id']}").json()["state"] == "done"


def test_deleting_removes_it_everywhere(http: httpx.Client, stock: Mapping[str, Path]) -> None:
    data = PHOTOS[2].read_bytes() + b"deleted"
    image_id = http.post("/images/upload", files={"file": data}, data={"collection": "gone"}).json()["id"]
    wait_until_at_rest(http, image_id)
    location = http.get(f"/images/{image_id}/file").headers["location"]
    assert http.delete(f"/images/{image_id}").status_code == 204
    assert http.get(f"/images/{image_id}").status_code == 404
    assert httpx.get(location).status_code == 404
    found = http.post("/search", files={"file": data}, data={"collection": "gone"}).json()
    assert found["results"] == []


def test_the_api_imports_an_archive_and_the_workers_process_it(http: httpx.Client, stock: Mapping[str, Path]) -> None:
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as archive:
        for number in range(20):
            archive.writestr(f"{number}.jpg", PHOTOS[number].read_bytes() + b"imported")
    form = {"files": {"file": ("photos.zip", packed.getvalue())}, "data": {"collection": "imported"}}
    location = http.post("/imports", **form).raise_for_status().headers["location"]
    deadline = time.monotonic() + 60
    while (report := http.get(location).json())["state"] == "running":
        assert time.monotonic() < deadline, report
        time.sleep(0.05)
    assert (report["state"], report["indexed"], report["failed"]) == ("done", 20, 0)
    images = http.get("/images", params={"collection": "imported"}).json()["images"]
    assert [image["state"] for image in images] == ["done"] * 20


def test_worker_and_embedder_have_only_their_routes(cluster: Cluster) -> None:
    with cluster.workers[1].client() as worker, cluster.embedder.client() as embedder:
        for client in (worker, embedder):
            assert client.get("/health").status_code == 200
            assert client.get("/ready").status_code == 200
            assert "imgsim_" in client.get("/metrics").text
            assert client.get("/images").status_code == 404
        assert worker.post("/encode", content=PHOTOS[0].read_bytes()).status_code == 404
        answer = embedder.post("/encode", content=PHOTOS[0].read_bytes())
        assert len(answer.json()["embedding"]) == 1280
