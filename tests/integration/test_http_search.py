"""``/images/{id}/similar`` and ``/search`` over HTTP, on photographs whose classes are known."""

import base64
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.processes import ImgsimServer, wait_until_at_rest

Json = dict[str, Any]

COLLECTION = "search"
UNKNOWN = "01900000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def labelled(server: ImgsimServer, photos: list[Path]) -> dict[str, str]:
    """The class of each image in the collection, by id. Tags: the class, and ``even`` for every other one."""
    classes: dict[str, str] = {}
    with server.client() as client:
        for number, path in enumerate(path for path in photos if path.parent.parent.name == "classes"):
            tags = [path.parent.name, "even"] if number % 2 == 0 else [path.parent.name]
            metadata = json.dumps({"number": number, "third": number % 3 == 0, "class": path.parent.name})
            data = {"collection": COLLECTION, "tags": tags, "metadata": metadata}
            answer = client.post("/images/upload", files={"file": path.open("rb")}, data=data)
            classes[answer.raise_for_status().json()["id"]] = path.parent.name
        for image_id in classes:
            assert wait_until_at_rest(client, image_id)["state"] == "done"
    return classes


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server on which every image ends in error."""
    settings = {"IMGSIM_PIPELINE__TIMEOUT_SECONDS": "0.000001", "IMGSIM_JOBS__MAX_ATTEMPTS": "1"}
    with ImgsimServer(tmp_path_factory.mktemp("failing") / "data", settings) as server, server.client() as client:
        yield client


def similar(client: httpx.Client, image_id: str, **params: Any) -> Json:
    answer: Json = client.get(f"/images/{image_id}/similar", params=params).raise_for_status().json()
    return answer


def search(client: httpx.Client, **body: Any) -> Json:
    """By JSON."""
    answer: Json = client.post("/search", json=body).raise_for_status().json()
    return answer


def search_file(client: httpx.Client, data: bytes, **fields: Any) -> Json:
    response = client.post("/search", files={"file": ("query.jpg", data)}, data=fields)
    answer: Json = response.raise_for_status().json()
    return answer


def found(answer: Json) -> list[str]:
    return [hit["image"]["id"] for hit in answer["results"]]


def scores(answer: Json) -> list[float]:
    return [hit["score"] for hit in answer["results"]]


def assert_ordered(answer: Json) -> None:
    """Best first, ties by id, every score a cosine similarity, nothing twice."""
    order = [(-hit["score"], hit["image"]["id"]) for hit in answer["results"]]
    assert order == sorted(order)
    assert all(-1 <= score <= 1 for score in scores(answer))
    assert len(set(found(answer))) == len(order)


def assert_problem(response: httpx.Response, status: int, kind: str | None = None) -> Json:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: Json = response.json()
    assert problem["status"] == status
    if kind:
        assert problem["type"] == f"urn:imgsim:error:{kind}"
    return problem


def speckle(seed: int) -> bytes:
    """A picture like no other seed's, and like none of other test files."""
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng([1, seed]).integers(0, 256, (48, 64, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


# similar


def test_similar_images_come_best_first_without_the_image_itself(
    client: httpx.Client, labelled: dict[str, str]
) -> None:
    for image_id in list(labelled)[::9]:
        answer = similar(client, image_id, limit=100)
        assert list(answer) == ["model", "results", "next_cursor"]
        assert answer["model"] == "efficientnet-lite0@1"
        assert_ordered(answer)
        assert set(found(answer)) == labelled.keys() - {image_id}
        assert answer["next_cursor"] is None


def test_a_result_has_the_whole_image(client: httpx.Client, labelled: dict[str, str]) -> None:
    hit = similar(client, next(iter(labelled)), limit=1)["results"][0]
    assert hit["image"] == client.get(f"/images/{hit['image']['id']}").json()


def test_scores_are_the_cosine_similarities_of_the_embeddings(client: httpx.Client, labelled: dict[str, str]) -> None:
    def vector(image_id: str) -> list[float]:
        image: Json = client.get(f"/images/{image_id}", params={"vector": "true"}).json()
        numbers: list[float] = image["embedding"]["vector"]
        return numbers

    image_id = next(iter(labelled))
    for hit in similar(client, image_id)["results"]:
        assert hit["score"] == pytest.approx(np.dot(vector(image_id), vector(hit["image"]["id"])), abs=1e-5)


def test_photos_of_the_same_class_are_mostly_on_top(client: httpx.Client, labelled: dict[str, str]) -> None:
    right = Counter[bool]()
    for image_id, label in labelled.items():
        right.update(labelled[other] == label for other in found(similar(client, image_id, limit=5)))
    assert right[True] / right.total() > 0.75, right


def test_a_copy_of_a_photo_finds_its_original(client: httpx.Client, photos: list[Path]) -> None:
    originals = [path for path in photos if path.parent.name == "neardup"]
    stored: dict[str, Path] = {}
    for path in originals:
        answer = client.post("/images/upload", files={"file": path.open("rb")}, data={"collection": "originals"})
        stored[answer.json()["id"]] = path
    for image_id in stored:
        wait_until_at_rest(client, image_id)
    for image_id, path in stored.items():
        picture = Image.open(path).convert("RGB")
        copy = io.BytesIO()
        width, height = picture.size
        picture.resize((width * 3 // 4, height * 3 // 4)).save(copy, "JPEG", quality=60)
        assert found(search_file(client, copy.getvalue(), collection="originals", limit=1)) == [image_id]


def test_without_a_limit_ten_come(client: httpx.Client, labelled: dict[str, str]) -> None:
    image_id = next(iter(labelled))
    assert len(similar(client, image_id)["results"]) == 10
    assert len(search(client, positive=[image_id], collection=COLLECTION)["results"]) == 10


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_no_more_than_the_limit_come(client: httpx.Client, labelled: dict[str, str], limit: int) -> None:
    image_id = next(iter(labelled))
    everything = found(similar(client, image_id, limit=100))
    assert found(similar(client, image_id, limit=limit)) == everything[:limit]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=-1", "limit=x", "limit=", "min_score=1.1", "min_score=-2", "min_score=nan",
     "min_score=x", "cursor=x", "cursor=", "cursor=%ff", "cursor=e30", "exact=x", "created_from=x",
     "created_to=2026-02-30", "created_from=2026-01-01T00:00:00+02:00", "created_from=2026-01-02&created_to=2026-01-01",
     "metadata=x", "metadata=a=1&metadata=a=2", "not_tag=a" + "&not_tag=a" * 100],
)  # fmt: skip
def test_a_parameter_that_does_not_fit_is_refused(client: httpx.Client, labelled: dict[str, str], query: str) -> None:
    problem = assert_problem(client.get(f"/images/{next(iter(labelled))}/similar?{query}"), 400, "invalid-request")
    assert query.partition("=")[0] in problem["detail"]


def test_min_score_cuts_off_the_rest(client: httpx.Client, labelled: dict[str, str]) -> None:
    image_id = next(iter(labelled))
    everything = similar(client, image_id, limit=100)
    limit = scores(everything)[20]
    assert found(similar(client, image_id, limit=100, min_score=limit - 1e-6)) == found(everything)[:21]
    assert similar(client, image_id, min_score=1)["results"] == []


def test_all_of_the_tags_must_match(client: httpx.Client, labelled: dict[str, str]) -> None:
    image_id, label = next(iter(labelled.items()))
    everything = found(similar(client, image_id, limit=100))
    even = set(list(labelled)[::2])
    both = [other for other in everything if labelled[other] == label and other in even]
    assert found(similar(client, image_id, limit=100, tag=[label, "even"])) == both
    assert found(search(client, positive=[image_id], limit=100, collection=COLLECTION, tag=[label, "even"])) == both
    assert found(similar(client, image_id, tag=["roses", "milk"])) == []


def test_filters_are_the_same_in_the_query_in_json_and_in_a_form(
    client: httpx.Client, photos: list[Path], labelled: dict[str, str]
) -> None:
    image_id, *others = labelled
    everything = found(similar(client, image_id, limit=100))
    numbers = {other: number for number, other in enumerate(labelled)}
    dates = {other: client.get(f"/images/{other}").json()["created_at"] for other in others[9:30:20]}
    start, end = dates[others[9]], dates[others[29]]
    for filters, passes in (
        ({"any_tag": ["roses", "milk"]}, lambda other: labelled[other] in ("roses", "milk")),
        ({"not_tag": ["roses", "even"]}, lambda other: labelled[other] != "roses" and numbers[other] % 2),
        ({"any_tag": ["roses", "milk"], "not_tag": ["roses"], "tag": ["even"]},
         lambda other: labelled[other] == "milk" and numbers[other] % 2 == 0),
        ({"created_from": start, "created_to": end}, lambda other: 10 <= numbers[other] < 30),
        ({"created_from": "2026-01-01", "created_to": "2026-01-02"}, lambda other: False),
        ({"metadata": {"third": True}}, lambda other: numbers[other] % 3 == 0),
        ({"metadata": {"number": 7.0, "class": labelled[others[6]]}}, lambda other: numbers[other] == 7),
        ({"metadata": {"third": "true"}}, lambda other: False),
    ):  # fmt: skip
        wanted = [other for other in everything if passes(other)]
        metadata = [f"{key}={json.dumps(value)}" for key, value in filters.get("metadata", {}).items()]  # type: ignore[attr-defined]
        flat = {**filters, "metadata": metadata}
        assert found(similar(client, image_id, limit=100, **flat)) == wanted, filters
        assert found(similar(client, image_id, limit=100, exact=True, **flat)) == wanted
        assert found(search(client, positive=[image_id], collection=COLLECTION, limit=100, **filters)) == wanted
        by_form = search_file(client, photos[0].read_bytes(), collection=COLLECTION, limit="100", exact="true", **flat)
        assert [other for other in found(by_form) if other != image_id] == wanted
    by_form = search_file(client, photos[0].read_bytes(), collection=COLLECTION, metadata='{"number": 7}')
    assert found(by_form) == [others[6]]


def test_changed_metadata_is_found(client: httpx.Client) -> None:
    """In one collection of two."""
    one, other = (
        client.post("/images/upload", files={"file": speckle(n)}, data={"collection": "changed"}).json()["id"]
        for n in (20, 21)
    )
    for image_id in (one, other):
        wait_until_at_rest(client, image_id)
    assert found(similar(client, one, metadata="album=7")) == []
    client.patch(f"/images/{other}", json={"metadata": {"album": 7}}).raise_for_status()
    assert found(similar(client, one, metadata="album=7")) == [other]
    client.patch(f"/images/{other}", json={"metadata": {}}).raise_for_status()
    assert found(similar(client, one, metadata="album=7")) == []


def test_percentiles_say_how_many_pairs_are_less_alike(client: httpx.Client, labelled: dict[str, str]) -> None:
    """By all pairs of the collection, counted here."""
    vectors = np.array(
        [client.get(f"/images/{each}", params={"vector": "true"}).json()["embedding"]["vector"] for each in labelled]
    )
    pairs = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    for answer in (
        similar(client, next(iter(labelled)), limit=100),
        search(client, positive=list(labelled)[:3], negative=list(labelled)[-2:], collection=COLLECTION, limit=100),
    ):
        percentiles = [hit["percentile"] for hit in answer["results"]]
        assert percentiles == sorted(percentiles, reverse=True)
        assert percentiles == pytest.approx([np.mean(pairs < score) * 100 for score in scores(answer)], abs=0.1)


def test_without_a_collection_percentiles_are_over_all(client: httpx.Client, photos: list[Path]) -> None:
    (best, *_) = search_file(client, photos[0].read_bytes(), limit=2)["results"]
    assert 90 < best["percentile"] <= 100  # other tests have left the same picture in many collections


def test_weights_of_examples_count(client: httpx.Client, labelled: dict[str, str]) -> None:
    rose = next(image_id for image_id, label in labelled.items() if label == "roses")
    milk = next(image_id for image_id, label in labelled.items() if label == "milk")
    examples = [{"id": rose, "weight": 20}, {"id": milk, "weight": 0.5}]
    answer = search(client, positive=examples, collection=COLLECTION, limit=5)
    without = [other for other in found(similar(client, rose, limit=6)) if other != milk][:5]
    assert found(answer) == without
    plain = search(client, positive=[rose, {"id": milk}], collection=COLLECTION)
    equal = [{"id": each, "weight": 4} for each in (rose, milk)]
    assert plain == search(client, positive=equal, collection=COLLECTION)
    parts = [("positive", (None, json.dumps(example))) for example in examples]
    parts += [("collection", (None, COLLECTION)), ("limit", (None, "5"))]
    assert client.post("/search", files=parts).json() == answer
    parts = [("positive", (None, json.dumps(examples))), ("collection", (None, COLLECTION)), ("limit", (None, "5"))]
    assert client.post("/search", files=parts).json() == answer


@pytest.mark.parametrize("limit", [1, 7, 50])
def test_pages_are_one_big_page_cut_up(client: httpx.Client, labelled: dict[str, str], limit: int) -> None:
    image_id = next(iter(labelled))
    whole = similar(client, image_id, limit=100)["results"]
    pages, cursor = [], {}
    while True:
        page = similar(client, image_id, limit=limit, **cursor)
        pages += page["results"]
        if page["next_cursor"] is None:
            break
        assert len(page["results"]) == limit
        cursor = {"cursor": page["next_cursor"]}
    assert pages == whole


def test_pages_of_equal_scores_neither_repeat_nor_skip(client: httpx.Client) -> None:
    """The same picture in many files, which differ in the bytes after its end."""
    ids = []
    for number in range(25):
        out = io.BytesIO()
        Image.open(io.BytesIO(speckle(1))).save(out, "BMP")
        body = out.getvalue() + bytes(number)
        answer = client.post("/images/upload", files={"file": body}, data={"collection": "ties"})
        ids.append(answer.raise_for_status().json()["id"])
    for image_id in ids:
        wait_until_at_rest(client, image_id)
    seen: list[str] = []
    cursor: Json = {}
    while cursor is not None:
        page = similar(client, ids[0], limit=4, **cursor)
        assert_ordered(page)
        seen += found(page)
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
    assert seen == sorted(ids[1:])


@pytest.mark.parametrize(
    "text",
    [
        "[Infinity, 0, null]",
        "[1e400, 0, 0]",
        "[" * 5000,
        "null",
        "[0, 0]",
        '[0, "x", 0]',
    ],
)
def test_a_forged_cursor_is_refused(client: httpx.Client, labelled: dict[str, str], text: str) -> None:
    cursor = base64.urlsafe_b64encode(text.encode()).decode()
    assert_problem(client.get(f"/images/{next(iter(labelled))}/similar", params={"cursor": cursor}), 400)


def test_an_image_that_is_not_searchable_is_409(failing: httpx.Client) -> None:
    image_id = failing.post("/images/upload", files={"file": speckle(2)}).json()["id"]
    assert wait_until_at_rest(failing, image_id)["state"] == "error"
    for response in (
        failing.get(f"/images/{image_id}/similar"),
        failing.get(f"/images/{image_id}", params={"vector": "true"}),
        failing.post("/search", json={"positive": [image_id]}),
    ):
        assert "error" in assert_problem(response, 409, "not-searchable")["detail"]


def test_an_empty_index_has_no_results(failing: httpx.Client) -> None:
    answer = search_file(failing, speckle(3))
    assert (answer["results"], answer["next_cursor"]) == ([], None)


# search


def test_a_stored_file_finds_itself_first(client: httpx.Client, photos: list[Path], labelled: dict[str, str]) -> None:
    for path, image_id in list(zip(photos, labelled, strict=False))[::8]:
        answer = search_file(client, path.read_bytes(), collection=COLLECTION)
        assert_ordered(answer)
        assert found(answer)[0] == image_id
        assert scores(answer)[0] > 0.999


def test_a_file_and_its_id_give_the_same_answer(
    client: httpx.Client, photos: list[Path], labelled: dict[str, str]
) -> None:
    by_file = search_file(client, photos[0].read_bytes(), collection=COLLECTION, limit=11)
    by_id = similar(client, next(iter(labelled)), limit=10)
    assert found(by_file)[1:] == found(by_id)
    assert scores(by_file)[1:] == pytest.approx(scores(by_id), abs=1e-5)


def test_a_searched_file_is_not_stored(client: httpx.Client, labelled: dict[str, str]) -> None:
    search_file(client, speckle(4), collection="not-stored")
    assert client.get("/images", params={"collection": "not-stored"}).json()["images"] == []


def test_a_form_takes_the_same_filters(client: httpx.Client, photos: list[Path], labelled: dict[str, str]) -> None:
    data = photos[0].read_bytes()
    fields: Json = {"collection": COLLECTION, "tag": ["roses", "even"], "limit": "3", "min_score": "-1"}
    first = search_file(client, data, **fields)
    even = set(list(labelled)[::2])
    assert len(first["results"]) == 3
    assert all(labelled[image_id] == "roses" and image_id in even for image_id in found(first))
    second = search_file(client, data, **fields, cursor=first["next_cursor"])
    assert second["results"]
    assert scores(second)[0] <= scores(first)[-1]
    assert not set(found(first)) & set(found(second))


def test_without_a_collection_all_are_searched(client: httpx.Client, labelled: dict[str, str]) -> None:
    elsewhere = client.post("/images/upload", files={"file": speckle(5)}, data={"collection": "elsewhere"}).json()["id"]
    wait_until_at_rest(client, elsewhere)
    assert found(search_file(client, speckle(5), limit=1)) == [elsewhere]
    assert elsewhere not in found(search_file(client, speckle(5), limit=100, collection=COLLECTION))


def test_examples_find_what_is_like_the_positive_and_unlike_the_negative(
    client: httpx.Client, labelled: dict[str, str]
) -> None:
    roses = [image_id for image_id, label in labelled.items() if label == "roses"]
    daisies = [image_id for image_id, label in labelled.items() if label == "daisy"]
    answer = search(client, positive=roses[:3], negative=daisies[:3], collection=COLLECTION, limit=100)
    assert_ordered(answer)
    assert not set(found(answer)) & {*roses[:3], *daisies[:3]}
    labels = [labelled[image_id] for image_id in found(answer)]
    assert labels[:5].count("roses") >= 4
    assert labels[:9].count("daisy") == 0


def test_one_positive_example_is_the_same_as_similar(client: httpx.Client, labelled: dict[str, str]) -> None:
    image_id = next(iter(labelled))
    by_example = search(client, positive=[image_id], collection=COLLECTION)
    assert found(by_example) == found(similar(client, image_id))


def test_examples_page_too(client: httpx.Client, labelled: dict[str, str]) -> None:
    roses = [image_id for image_id, label in labelled.items() if label == "roses"][:2]
    whole = search(client, positive=roses, collection=COLLECTION, limit=20)
    first = search(client, positive=roses, collection=COLLECTION, limit=10)
    second = search(client, positive=roses, collection=COLLECTION, limit=10, cursor=first["next_cursor"])
    assert first["results"] + second["results"] == whole["results"]


def test_examples_can_come_as_a_form(client: httpx.Client, labelled: dict[str, str]) -> None:
    one, other = list(labelled)[:2]
    wanted = search(client, positive=[one, other], collection=COLLECTION)
    for values in ([one, other], [json.dumps([one, other])]):
        parts = [("positive", (None, value)) for value in values] + [("collection", (None, COLLECTION))]
        assert client.post("/search", files=parts).json() == wanted


def test_an_example_that_is_not_there_is_404(client: httpx.Client, labelled: dict[str, str]) -> None:
    response = client.post("/search", json={"positive": [next(iter(labelled)), UNKNOWN]})
    assert UNKNOWN in assert_problem(response, 404, "image-not-found")["detail"]


def test_a_text_is_422_and_says_which_models_can(client: httpx.Client) -> None:
    for response in (
        client.post("/search", json={"text": "a rose"}),
        client.post("/search", files={"text": (None, "a rose")}),
    ):
        problem = assert_problem(response, 422, "text-not-supported")
        assert "open_clip" in problem["detail"]
        assert "embedder.model" in problem["detail"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x.jpg", "file:///etc/passwd", "x", ""])
def test_urls_that_may_not_be_fetched_are_refused(client: httpx.Client, url: str) -> None:
    assert_problem(client.post("/search", json={"url": url}), 400)
    assert_problem(client.post("/encode", json={"url": url}), 400)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"{}", b"\xff", b'{"text": 1}', b'{"texts": "x"}', b'{"positive": []}',
     b'{"positive": ["x"]}', b'{"positive": "x"}', b'{"positive": [null]}', b'{"text": "a", "url": "b"}',
     b'{"negative": ["%s"]}' % UNKNOWN.encode(), b'{"positive": ["%s"], "text": "a"}' % UNKNOWN.encode(),
     b'{"text": "a", "limit": 0}', b'{"text": "a", "limit": 101}', b'{"text": "a", "limit": 1.5}',
     b'{"text": "a", "limit": "5"}', b'{"text": "a", "min_score": 2}', b'{"text": "a", "min_score": NaN}',
     b'{"text": "\\ud800"}', b'{"text": "a", "tag": 5}', b'{"text": "a", "colection": "x"}', b"[" * 100_000,
     b'{"positive": [{"id": "%s", "weight": 0}]}' % UNKNOWN.encode(), b'{"positive": [{"weight": 1}]}',
     b'{"positive": [{"id": "%s", "weight": 1e999}]}' % UNKNOWN.encode(), b'{"text": "a", "metadata": {"a": {}}}',
     b'{"positive": [{"id": "%s", "height": 1}]}' % UNKNOWN.encode(), b'{"text": "a", "metadata": []}',
     b'{"text": "a", "created_from": 2026}', b'{"text": "a", "exact": 1}'],
)  # fmt: skip
def test_a_json_search_that_does_not_fit_is_refused(client: httpx.Client, body: bytes) -> None:
    response = client.post("/search", content=body, headers={"Content-Type": "application/json"})
    assert_problem(response, 400, "invalid-request")


@pytest.mark.parametrize(
    "fields",
    [{"colection": "x"}, {"limit": "0"}, {"limit": "x"}, {"min_score": "nan"}, {"text": "x"}, {"url": "x"},
     {"positive": UNKNOWN}, {"positive": "x"}, {"positive": "[" * 9000}, {"positive": "[1"}, {"positive": "[{}]"},
     {"limit": ["1", "2"]}, {"cursor": "é"}, {"exact": "x"}, {"created_to": "x"}, {"metadata": "x"}, {"metadata": "{"},
     {"metadata": '{"a": []}'}, {"positive": '{"id": 1}'}, {"metadata": ["a=1", "a=2"]}, {"metadata": "[1]"}],
)  # fmt: skip
def test_a_form_search_that_does_not_fit_is_refused(client: httpx.Client, fields: Json) -> None:
    assert_problem(client.post("/search", files={"file": speckle(6)}, data=fields), 400, "invalid-request")


def test_a_search_without_anything_to_search_by_is_refused(client: httpx.Client) -> None:
    assert_problem(client.post("/search", files={"limit": (None, "5")}), 400, "invalid-request")
    assert_problem(client.post("/search"), 400, "invalid-request")


@pytest.mark.parametrize(("data", "status"), [(b"", 415), (b"hello", 415), (speckle(7)[:2000], 422)])
def test_a_file_that_is_no_picture_is_refused_as_on_upload(client: httpx.Client, data: bytes, status: int) -> None:
    assert_problem(client.post("/search", files={"file": ("a.jpg", data)}), status)


def test_two_files_are_one_too_many(client: httpx.Client) -> None:
    assert_problem(client.post("/search", files=[("file", speckle(8)), ("file", speckle(9))]), 400)


def test_too_long_a_body_is_413(client: httpx.Client) -> None:
    assert_problem(client.post("/search", json={"text": "x" * 2_000_000}), 413, "too-large")


def test_many_examples_and_tags_work_and_too_many_are_refused(client: httpx.Client, labelled: dict[str, str]) -> None:
    one = next(iter(labelled))
    unknown = [f"{number:08x}-0000-7000-8000-000000000000" for number in range(20_000)]
    assert_problem(client.post("/search", json={"positive": unknown}), 400, "invalid-request")
    assert found(search(client, positive=[one] * 100, collection=COLLECTION)) == found(similar(client, one))
    tags = [str(number) for number in range(20_000)]
    assert_problem(client.post("/search", json={"positive": [one], "tag": tags}), 400, "invalid-request")
    assert search(client, positive=[one], tag=tags[:100])["results"] == []
    listed = client.get("/images", params={"tag": tags[:100]})
    assert listed.status_code == 200
    assert listed.json()["images"] == []
