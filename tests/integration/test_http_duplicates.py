"""Copies over HTTP, on real photographs: ``match``, ``/duplicates``, ``on_copy``."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.benchmarks.changed import CHANGES, changed
from tests.processes import ImgsimServer, wait_until_at_rest

Json = dict[str, Any]

UNKNOWN = "01900000-0000-7000-8000-000000000000"
_collections = (f"duplicates-{number}" for number in itertools.count())


@pytest.fixture
def collection() -> str:
    """A collection that no other test uses."""
    return next(_collections)


@pytest.fixture(scope="module")
def album(server: ImgsimServer, photos: list[Path]) -> Json:
    """The first original, its copies by how they were changed, and others: ids in one collection."""
    original, *others = [path for path in photos if path.parent.name == "neardup"]
    with server.client() as client:
        files = {"original": original.read_bytes(), **dict(changed(original.read_bytes(), original.name))}
        files |= {f"other {number}": path.read_bytes() for number, path in enumerate(others)}
        ids = {name: upload(client, data, "album") for name, data in files.items()}
        for image_id in ids.values():
            assert wait_until_at_rest(client, image_id)["state"] == "done"
    return ids


def upload(client: httpx.Client, data: bytes, collection: str, **fields: Any) -> str:
    fields = {"collection": collection, **fields}
    return str(client.post("/images/upload", files={"file": data}, data=fields).raise_for_status().json()["id"])


def uploaded(client: httpx.Client, data: bytes, collection: str, **fields: Any) -> Json:
    return wait_until_at_rest(client, upload(client, data, collection, **fields))


def change(path: Path, way: str) -> bytes:
    return dict(changed(path.read_bytes(), path.name))[way]


def matches(answer: httpx.Response) -> dict[str, str]:
    return {hit["image"]["id"]: hit["match"] for hit in answer.raise_for_status().json()["results"]}


def groups(client: httpx.Client, **params: Any) -> list[Json]:
    """Of all pages."""
    found: list[Json] = []
    while True:
        page = client.get("/duplicates", params=params).raise_for_status().json()
        found += page["groups"]
        if page["next_cursor"] is None:
            return found
        params["cursor"] = page["next_cursor"]


def ids_of(group: Json) -> list[str]:
    return [image["id"] for image in group["images"]]


def test_copies_are_told_from_look_alikes(client: httpx.Client, album: Json) -> None:
    found = matches(client.get(f"/images/{album['original']}/similar", params={"limit": 100}))
    assert found.keys() == set(album.values()) - {album["original"]}
    copies = {name for name, image_id in album.items() if found.get(image_id) == "copy"}
    assert len(copies & CHANGES.keys()) >= 10
    assert copies <= CHANGES.keys()


def test_a_searched_file_is_identical_a_copy_or_similar(client: httpx.Client, album: Json, photos: list[Path]) -> None:
    path = next(path for path in photos if path.parent.name == "neardup")
    body = {"collection": "album", "limit": "100"}
    for data, match in ((path.read_bytes(), "identical"), (change(path, "crop10"), "copy")):
        found = matches(client.post("/search", files={"file": data}, data=body))
        assert found[album["original"]] == match
        assert found[album["hflip"]] == "copy"
        assert found[album["other 3"]] == "similar"
    examples = matches(client.post("/search", json={"positive": [album["original"]], "collection": "album"}))
    assert set(examples.values()) == {"similar"}


def test_copies_form_a_group(client: httpx.Client, album: Json) -> None:
    (group,) = groups(client, collection="album")
    assert group["match"] == "copy"
    assert ids_of(group) == sorted(ids_of(group))
    assert {album["original"], *(album[way] for way in CHANGES)} >= set(ids_of(group))
    assert len(group["images"]) >= 11
    described = client.get(f"/images/{album['hflip']}").json()["features"]
    assert {copy["id"] for copy in described["copies"]["of"]} <= set(ids_of(group))
    assert len(described["fingerprint"]["pdq"]) == 64


def test_deleting_the_rest_ends_a_group(client: httpx.Client, collection: str, photos: list[Path]) -> None:
    ids = [uploaded(client, change(photos[1], way), collection)["id"] for way in ("png", "webp", "jpeg30")]
    (group,) = groups(client, collection=collection)
    assert ids_of(group) == ids
    client.delete(f"/images/{ids[0]}").raise_for_status()
    (group,) = groups(client, collection=collection)
    assert ids_of(group) == ids[1:]
    client.delete(f"/images/{ids[1]}").raise_for_status()
    assert groups(client, collection=collection) == []
    assert client.post(f"/duplicates/{group['id']}/dismiss").json()["type"] == "urn:imgsim:error:group-not-found"


def test_dismissed_images_are_no_group_any_more(client: httpx.Client, collection: str, photos: list[Path]) -> None:
    one, two = (uploaded(client, change(photos[2], way), collection)["id"] for way in ("png", "webp"))
    (group,) = groups(client, collection=collection)
    assert client.post(f"/duplicates/{group['id']}/dismiss").status_code == 204
    assert groups(client, collection=collection) == []
    third = uploaded(client, change(photos[2], "resize"), collection)["id"]
    (group,) = groups(client, collection=collection)
    assert ids_of(group) in ([one, third], [two, third])
    assert matches(client.get(f"/images/{one}/similar"))[two] == "copy"  # what they are, not what was said of them


def images_in(answer: Any) -> list[Json]:
    """However deep they lie in it."""
    if isinstance(answer, list):
        return [image for each in answer for image in images_in(each)]
    if isinstance(answer, dict):
        return [answer] if "features" in answer else images_in([*answer.values()])
    return []


def test_no_answer_has_what_only_comparing_needs(client: httpx.Client, collection: str, photos: list[Path]) -> None:
    data, here = photos[7].read_bytes(), {"collection": collection}
    one, _ = uploaded(client, data, collection), uploaded(client, change(photos[7], "resize"), collection)
    path = f"/images/{one['id']}"
    announced = {"sha256": one["sha256"], "content_type": "image/jpeg", "bytes": len(data), **here}
    for answer in (
        client.get(path),
        client.get(path, params={"vector": True}),
        client.patch(path, json={"tags": ["a"]}),
        client.post(f"{path}/complete"),
        client.post("/images/presign", json=announced),
        client.post("/images/upload", files={"file": data}, data=here),
        client.get("/images", params=here),
        client.get("/images", params={"sha256": one["sha256"], **here}),
        client.get(f"{path}/similar"),
        client.post("/search", files={"file": data}, data=here),
        client.post("/search", json={"positive": [one["id"]], **here}),
        client.get("/duplicates", params=here),
    ):
        images = images_in(answer.raise_for_status().json())
        assert images
        for image in images:
            assert image["features"]["fingerprint"].keys() == {"pdq", "quality", "aspect"}, answer.request.url


def test_only_the_images_that_were_seen_are_dismissed(
    client: httpx.Client, collection: str, photos: list[Path]
) -> None:
    one, two = (uploaded(client, change(photos[6], way), collection)["id"] for way in ("png", "webp"))
    (seen,) = groups(client, collection=collection)
    third = uploaded(client, change(photos[6], "resize"), collection)["id"]
    path, body = f"/duplicates/{seen['id']}/dismiss", {"images": ids_of(seen)}
    assert client.post(path, json=body).status_code == 204
    (group,) = groups(client, collection=collection)
    assert ids_of(group) == [one, third]
    assert client.post(path, json=body).json()["type"] == "urn:imgsim:error:group-not-found"
    assert client.post(path, json={"images": [two, UNKNOWN]}).status_code == 404
    assert groups(client, collection=collection) == [group]


@pytest.mark.parametrize(
    "body", [{}, [], None, {"images": None}, {"images": []}, {"images": [UNKNOWN]}, {"images": [UNKNOWN] * 101},
             {"images": [UNKNOWN, "x"]}, {"images": [UNKNOWN, UNKNOWN], "all": True}]
)  # fmt: skip
def test_a_dismissal_that_names_no_two_images_is_refused(client: httpx.Client, body: Any) -> None:
    answer = client.post(
        f"/duplicates/{UNKNOWN}/dismiss", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:imgsim:error:invalid-request")


def test_pages_of_groups_neither_repeat_nor_skip(client: httpx.Client, photos: list[Path]) -> None:
    names = [next(_collections) for _ in range(3)]
    for name, path in zip(names, photos[10:13], strict=True):
        for data in (path.read_bytes(), change(path, "jpeg30")):
            uploaded(client, data, name)
    everything = groups(client, limit=100)
    assert len({group["id"] for group in everything}) == len(everything)
    assert {name for group in everything for name in {image["collection"] for image in group["images"]}} >= set(names)
    assert groups(client, limit=1) == everything


def test_identical_bytes_in_two_collections_form_a_group(client: httpx.Client, photos: list[Path]) -> None:
    names = [next(_collections) for _ in range(2)]
    ids = [uploaded(client, change(photos[20], "png"), name)["id"] for name in names]
    (group,) = [group for group in groups(client) if set(ids) <= set(ids_of(group))]
    assert (group["match"], ids_of(group)) == ("identical", sorted(ids))
    assert groups(client, collection=names[0]) == []
    assert client.post(f"/duplicates/{group['id']}/dismiss").status_code == 204
    assert not [group for group in groups(client) if set(ids) <= set(ids_of(group))]


def test_a_flagged_copy_is_found_by_its_tag(client: httpx.Client, collection: str, photos: list[Path]) -> None:
    original = uploaded(client, photos[3].read_bytes(), collection, on_copy="flag")
    copy = uploaded(client, change(photos[3], "crop10"), collection, on_copy="flag")
    assert (original["tags"], copy["tags"], copy["on_copy"]) == ([], ["copy"], "flag")
    found = matches(client.get(f"/images/{original['id']}/similar", params={"tag": "copy"}))
    assert found == {copy["id"]: "copy"}


def test_a_rejected_copy_names_its_original(client: httpx.Client, collection: str, photos: list[Path]) -> None:
    original = uploaded(client, photos[4].read_bytes(), collection, on_copy="reject")
    copy = uploaded(client, change(photos[4], "hflip"), collection, on_copy="reject")
    assert original["embedding"] is not None
    assert (copy["state"], copy["embedding"]) == ("done", None)
    assert original["id"] in copy["features"]["copies"]["reason"]
    assert groups(client, collection=collection) == []
    refused = client.get(f"/images/{copy['id']}/similar")
    assert (refused.status_code, original["id"] in refused.json()["detail"]) == (409, True)


def test_of_copies_sent_at_once_exactly_one_stays(client: httpx.Client, collection: str, photos: list[Path]) -> None:
    files = [photos[5].read_bytes(), *(change(photos[5], way) for way in ("png", "webp", "jpeg30", "colour", "hflip"))]
    with ThreadPoolExecutor(len(files)) as pool:
        images = list(pool.map(lambda data: uploaded(client, data, collection, on_copy="reject"), files))
    assert [image["state"] for image in images] == ["done"] * len(files)
    assert sum(image["embedding"] is not None for image in images) == 1


def test_without_the_plugin_copies_nothing_is_promised_of_them(tmp_path: Path, photos: list[Path]) -> None:
    settings = {"IMGSIM_PLUGINS__DISABLED": "copies", "IMGSIM_EMBEDDER__URL": "colour:"}
    data = photos[0].read_bytes()
    announced = {"sha256": "0" * 64, "content_type": "image/png", "bytes": 7, "on_copy": "flag"}
    with ImgsimServer(tmp_path, settings) as server, server.client() as client:
        for answer in (
            client.post("/images/upload", files={"file": data}, data={"on_copy": "flag"}),
            client.post("/images/presign", json=announced),
            client.post("/imports", files={"file": ("list.txt", b"")}, data={"on_copy": "reject"}),
        ):
            assert (answer.status_code, answer.json()["type"]) == (400, "urn:imgsim:error:invalid-request")
            assert "needs the plugin copies, which is off here (plugins.disabled)" in answer.json()["detail"]
        assert uploaded(client, data, "default", on_copy="accept")["state"] == "done"


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "cursor=x", "cursor=copy-x", "cursor=identical-0"]
)
def test_what_does_not_fit_is_refused(client: httpx.Client, query: str) -> None:
    answer = client.get(f"/duplicates?{query}")
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:imgsim:error:invalid-request")


def test_an_unknown_group_and_a_wrong_on_copy_are_refused(client: httpx.Client, photos: list[Path]) -> None:
    assert client.post(f"/duplicates/{UNKNOWN}/dismiss").status_code == 404
    data = {"on_copy": "maybe"}
    answer = client.post("/images/upload", files={"file": photos[0].read_bytes()}, data=data)
    assert answer.status_code == 400
    assert "'maybe' is nothing that on_copy can be: accept, flag, reject" in answer.json()["detail"]
    announced = {"sha256": "0" * 64, "content_type": "image/png", "bytes": 7, "on_copy": "maybe"}
    assert client.post("/images/presign", json=announced).status_code == 400
