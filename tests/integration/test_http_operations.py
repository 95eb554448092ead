"""What those who run it look at: health, readiness, metrics, the API's description, keys, and errors."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from imgsim import __version__
from tests.processes import ImgsimServer, wait_until_at_rest

Json = dict[str, Any]

UNKNOWN = "01900000-0000-7000-8000-000000000000"
PARTS = {"database", "objects", "vectors", "jobs", "embedder"}


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[ImgsimServer]:
    """A server of this test's own, with nothing in it."""
    with ImgsimServer(tmp_path / "data", {"IMGSIM_EMBEDDER__URL": "colour:"}) as server:
        yield server


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImgsimServer]:
    """A server with two API keys."""
    settings = {"IMGSIM_AUTH__KEYS": "first-key,second-key", "IMGSIM_EMBEDDER__URL": "colour:"}
    with ImgsimServer(tmp_path_factory.mktemp("locked") / "data", settings) as server:
        yield server


def speckle(seed: int) -> bytes:
    """A picture like no other seed's, and like none of other test files."""
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng([3, seed]).integers(0, 256, (48, 64, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def assert_problem(response: httpx.Response, status: int, code: str) -> Json:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: Json = response.json()
    assert problem.keys() - {"errors"} == {"type", "title", "status", "detail"}
    assert (problem["type"], problem["status"]) == (f"urn:imgsim:error:{code}", status)
    assert problem["title"] == code.replace("-", " ").capitalize()
    assert problem["detail"].endswith(".")
    assert not re.search(r"Traceback|\.py\b|site-packages|0x[0-9a-f]{6}", response.text)
    return problem


# health and readiness


def test_health_says_that_the_process_lives_and_which_version(client: httpx.Client) -> None:
    response = client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok", "version": __version__})


def test_ready_has_a_line_for_each_part(client: httpx.Client) -> None:
    response = client.get("/ready")
    assert (response.status_code, response.json()) == (200, {"status": "ready", "checks": dict.fromkeys(PARTS, "ok")})


def test_a_part_that_is_away_is_named_until_it_returns(fresh: ImgsimServer) -> None:
    objects, away = fresh.data_dir / "objects", fresh.data_dir / "away"
    with fresh.client() as client:
        ids = [client.post("/images/upload", files={"file": speckle(seed)}).json()["id"] for seed in (1, 2)]
        for image_id in ids:
            wait_until_at_rest(client, image_id)
        objects.rename(away)

        response = client.get("/ready")
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert response.json()["status"] == "not ready"
        checks = response.json()["checks"]
        assert str(objects) in checks.pop("objects")
        assert checks == dict.fromkeys(PARTS - {"objects"}, "ok")

        for refused in (
            client.post("/images/upload", files={"file": speckle(3)}),
            client.get(f"/images/{ids[0]}/file"),
        ):
            assert_problem(refused, 503, "unavailable")
            assert int(refused.headers["retry-after"]) > 0

        # What needs no objects goes on.
        assert client.get("/health").status_code == 200
        assert len(client.get("/images").json()["images"]) == 2
        assert len(client.get(f"/images/{ids[0]}/similar").json()["results"]) == 1
        assert client.post("/search", files={"file": speckle(1)}).json()["results"][0]["image"]["id"] == ids[0]
        assert client.get("/metrics").status_code == 200

        away.rename(objects)
        assert client.get("/ready").status_code == 200
        assert client.get(f"/images/{ids[0]}/file").content == speckle(1)
        again = client.post("/images/upload", files={"file": speckle(3)})
        assert again.status_code == 202, "what was refused left nothing behind"
        assert wait_until_at_rest(client, again.json()["id"])["state"] == "done"
    assert "Traceback" not in fresh.log.read_text()


# metrics


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(client: httpx.Client) -> Samples:
    """Value by name and labels, as Prometheus' own parser reads them."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = text_string_to_metric_families(response.text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def sample(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"imgsim_{name}", frozenset(labels.items())


def test_metrics_count_images_by_state_and_time_the_stages(fresh: ImgsimServer) -> None:
    states = ("created", "pending", "embedding", "indexing", "done", "error")
    with fresh.client() as client:
        before = samples(client)
        assert [before[sample("images", state=state)] for state in states] == [0] * 6
        for seed in range(3):
            wait_until_at_rest(client, client.post("/images/upload", files={"file": speckle(seed)}).json()["id"])
        client.post("/images/upload", files={"file": speckle(0)})
        client.post("/images/upload", files={"file": b"hello"})
        after = samples(client)
    assert [after[sample("images", state=state)] for state in states] == [0, 0, 0, 0, 3, 0]
    assert after[sample("vectors", model="colour-histogram@1")] == 3
    assert after[sample("queue_depth")] == 0
    for stage in ("embed", "index"):
        assert after[sample("stage_seconds_count", stage=stage, outcome="ok")] == 3
        assert 0 < after[sample("stage_seconds_sum", stage=stage, outcome="ok")] < 30
        assert after[sample("stage_seconds_bucket", stage=stage, outcome="ok", le="+Inf")] == 3
    route = {"app_name": "imgsim", "method": "POST", "path": "/images/upload"}
    for status, count in (("202", 3), ("200", 1), ("415", 1)):
        assert after[sample("http_requests_total", **route, status_code=status)] == count


def test_metrics_know_routes_not_addresses(client: httpx.Client) -> None:
    """Else anyone could fill the memory with labels."""
    for number in range(20):
        client.get(f"/nothing-{number}")
        client.get(f"/images/{number:08x}-0000-7000-8000-000000000000")
        client.get("/images", params={"tag": f"tag-{number}"})
    text = client.get("/metrics").text
    assert 'path="/images/{image_id}"' in text
    assert "nothing-" not in text
    assert "-0000-7000-" not in text
    assert "tag-" not in text


# the API's description

ROUTES = {
    ("POST", "/images/upload"), ("GET", "/images"), ("GET", "/images/{image_id}"), ("PATCH", "/images/{image_id}"),
    ("DELETE", "/images/{image_id}"), ("GET", "/images/{image_id}/similar"), ("GET", "/images/{image_id}/file"),
    ("GET", "/images/{image_id}/events"), ("POST", "/images/{image_id}/retry"), ("GET", "/events"), ("POST", "/search"),
    ("POST", "/encode"), ("GET", "/health"), ("GET", "/ready"), ("GET", "/metrics"),
}  # fmt: skip


@pytest.fixture(scope="module")
def description(server: ImgsimServer) -> Json:
    with server.client() as client:
        response = client.get("/schema/openapi.json")
    assert response.headers["content-type"].startswith("application/vnd.oai.openapi+json")
    answer: Json = response.json()
    return answer


def operations(description: Json) -> list[tuple[str, str, Json]]:
    return [
        (method.upper(), path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]


def everywhere(node: Any, key: str) -> Iterator[Any]:
    """The values of `key` at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from everywhere(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from everywhere(value, key)


def test_the_description_is_openapi_3_1_and_has_every_route(description: Json) -> None:
    assert description["openapi"].startswith("3.1.")
    assert description["info"]["title"] == "imgsim"
    assert description["info"]["version"] == __version__
    assert {(method, path) for method, path, _ in operations(description)} >= ROUTES


def test_the_description_refers_to_nothing_that_is_missing(description: Json) -> None:
    schemas = description["components"]["schemas"]
    references = set(everywhere(description, "$ref"))
    assert references <= {f"#/components/schemas/{name}" for name in schemas}
    schemes = description["components"]["securitySchemes"]
    assert {name for requirement in description["security"] for name in requirement} <= schemes.keys()
    tags = {tag["name"] for tag in description["tags"]}
    names = [operation["operationId"] for _, _, operation in operations(description)]
    assert len(set(names)) == len(names)
    for _, path, operation in operations(description):
        assert operation["summary"]
        assert set(operation["tags"]) <= tags
        in_path = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))


def test_every_error_is_described_as_a_problem(description: Json) -> None:
    for method, path, operation in operations(description):
        for status, response in operation["responses"].items():
            if status.startswith(("4", "5")) and path != "/ready":
                assert list(response["content"]) == ["application/problem+json"], (method, path, status)
                schema = response["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}


def test_examples_have_the_shape_that_is_described(description: Json) -> None:
    checked = 0
    for _, _, operation in operations(description):
        contents = [operation.get("requestBody", {}), *operation["responses"].values()]
        for media in (media for each in contents for media in each.get("content", {}).values()):
            for example in media.get("examples", {}).values():
                assert_fits(example["value"], media["schema"], description)
                checked += 1
    assert checked >= 5


def assert_fits(value: Any, schema: Json, description: Json) -> None:
    """As much of JSON Schema as this description uses."""
    options = [_resolved(option, description) for option in schema.get("oneOf", [schema])]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": float, "boolean": bool}
    kinds["null"] = type(None)
    for found in options:
        wanted = found["type"] if isinstance(found["type"], list) else [found["type"]]
        if isinstance(value, tuple(kinds[kind] for kind in wanted)):
            break
    else:
        raise AssertionError(f"{value!r} is none of {options}")
    assert value in found.get("enum", [value])
    if isinstance(value, dict) and "properties" in found:
        assert set(found.get("required", ())) <= value.keys() <= found["properties"].keys()
        for name, inner in value.items():
            assert_fits(inner, found["properties"][name], description)
    if isinstance(value, list) and "items" in found:
        for inner in value:
            assert_fits(inner, found["items"], description)


def _resolved(schema: Json, description: Json) -> Json:
    name = schema.get("$ref", "").rsplit("/", 1)[-1]
    found: Json = description["components"]["schemas"][name] if name else schema
    return found


def test_real_answers_have_the_shape_that_is_described(client: httpx.Client, description: Json) -> None:
    image_id = client.post("/images/upload", files={"file": speckle(10)}, data={"collection": "shapes"}).json()["id"]
    image = wait_until_at_rest(client, image_id)
    client.post("/images/upload", files={"file": speckle(11)}, data={"collection": "shapes"})
    for path, method, answer in (
        ("/images/{image_id}", "get", image),
        ("/images", "get", client.get("/images").json()),
        ("/images/{image_id}/similar", "get", client.get(f"/images/{image_id}/similar").json()),
        ("/search", "post", client.post("/search", files={"file": speckle(10)}).json()),
        ("/encode", "post", client.post("/encode", content=speckle(10)).json()),
        ("/ready", "get", client.get("/ready").json()),
        ("/health", "get", client.get("/health").json()),
    ):
        described = description["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
        assert_fits(answer, described, description)


def test_the_page_of_the_api_asks_nothing_of_other_sites_and_its_links_work(client: httpx.Client) -> None:
    response = client.get("/schema")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    page = response.text
    assert "<script" not in page
    assert not re.search(r"@import|url\(", page)
    links = re.findall(r"""(?:src|href|action)=["']([^"']*)""", page)
    assert links
    for link in links:
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in page
        else:
            assert re.match(r"/(?!/)", link), link
            assert client.get(link).status_code == 200, link
    policy = response.headers.get("content-security-policy", page)
    assert "default-src 'none'" in policy


def test_the_page_of_the_api_shows_every_route_and_shape(client: httpx.Client, description: Json) -> None:
    page = client.get("/schema").text
    for method, path, operation in operations(description):
        assert f"<b>{method} {path}</b>" in page
        for parameter in operation.get("parameters", []):
            assert f"<th>{parameter['name']}</th>" in page
    for name in description["components"]["schemas"]:
        assert f'id="{name}"' in page


# errors

IMAGE = speckle(20)
ERRORS: list[tuple[int, str, str, str, Json]] = [
    (400, "invalid-request", "GET", "/images?limit=x", {}),
    (400, "invalid-request", "GET", "/images?cursor=x", {}),
    (400, "invalid-request", "POST", "/images/upload", {"content": b"x"}),
    (400, "invalid-request", "POST", "/search", {"json": {"x": 1}}),
    (404, "image-not-found", "GET", f"/images/{UNKNOWN}", {}),
    (404, "not-found", "GET", "/nothing", {}),
    (404, "not-found", "GET", "/images/x", {}),
    (405, "method-not-allowed", "PUT", "/images", {}),
    (413, "too-large", "POST", "/search", {"content": b" " * 2_000_000}),
    (415, "unsupported-image", "POST", "/encode", {"content": b"x"}),
    (422, "broken-image", "POST", "/encode", {"content": IMAGE[:500]}),
    (422, "text-not-supported", "POST", "/search", {"json": {"text": "x"}}),
]


@pytest.mark.parametrize(("status", "code", "method", "path", "body"), ERRORS)
def test_an_error_is_a_problem_with_a_stable_type_and_a_sentence(
    client: httpx.Client, status: int, code: str, method: str, path: str, body: Json
) -> None:
    assert_problem(client.request(method, path, **body), status, code)


def test_a_wrong_parameter_is_named_for_programs_too(client: httpx.Client) -> None:
    problem = client.get("/images", params={"limit": 0, "state": "x"}).json()
    assert {error["key"] for error in problem["errors"]} == {"limit", "state"}


# keys

CLOSED = [
    ("GET", "/images"), ("POST", "/images/upload"), ("GET", f"/images/{UNKNOWN}"), ("PATCH", f"/images/{UNKNOWN}"),
    ("DELETE", f"/images/{UNKNOWN}"), ("GET", f"/images/{UNKNOWN}/file"), ("GET", f"/images/{UNKNOWN}/similar"),
    ("GET", f"/images/{UNKNOWN}/events"), ("POST", f"/images/{UNKNOWN}/retry"), ("GET", "/events"), ("POST", "/search"),
    ("POST", "/encode"), ("GET", "/metrics"), ("GET", "/schema"), ("GET", "/schema/openapi.json"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_with_keys_nothing_is_answered_without_one(locked: ImgsimServer, method: str, path: str) -> None:
    with locked.client() as client:
        response = client.request(method, path)
    assert_problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/health", "/ready", "/", "/web/any/app.js", "/session"])
def test_what_watches_the_process_needs_no_key(locked: ImgsimServer, path: str) -> None:
    with locked.client() as client:
        assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-key"},
        {"Authorization": "bearer second-key"},
        {"X-API-Key": "first-key"},
        {"X-API-Key": "second-key"},
        {"Authorization": "Basic eDp5", "X-API-Key": "first-key"},
    ],
)
def test_any_of_the_keys_opens_by_either_header(locked: ImgsimServer, headers: dict[str, str]) -> None:
    with locked.client(headers=headers) as client:
        image_id = client.post("/images/upload", files={"file": speckle(30)}).json()["id"]
        assert wait_until_at_rest(client, image_id)["state"] == "done"
        assert client.get("/metrics").status_code == 200
        assert client.get("/schema").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer third-key"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer first-key,second-key"},
        {"Authorization": "first-key"},
        {"Authorization": "Basic first-key"},
        {"X-API-Key": ""},
        {"X-API-Key": "first-ke"},
        {"X-API-Key": "FIRST-KEY"},
        {"X-API-Key": b"\xff\xfe"},
        {"Cookie": "key=first-key"},
    ],
)
def test_what_is_no_key_opens_nothing(locked: ImgsimServer, headers: Any) -> None:
    with locked.client() as client:
        assert_problem(client.get("/images", headers=headers), 401, "unauthorized")


def test_the_log_does_not_hold_the_keys(locked: ImgsimServer) -> None:
    with locked.client(headers={"X-API-Key": "first-key"}) as client:
        client.get("/images")
    assert "first-key" not in locked.log.read_text()


# pages of other sites


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://elsewhere.example"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://[::"},
    ],
)
def test_a_page_of_another_site_can_change_nothing_on_an_open_server(
    client: httpx.Client, headers: dict[str, str]
) -> None:
    for method, path in (
        ("POST", "/images/upload"),
        ("DELETE", f"/images/{UNKNOWN}"),
        ("PATCH", f"/images/{UNKNOWN}"),
        ("POST", f"/images/{UNKNOWN}/retry"),
        ("POST", "/search"),
        ("POST", "/encode"),
    ):
        response = client.request(method, path, headers=headers)
        assert response.status_code in (401, 403), response.text
        assert response.headers["content-type"] == "application/problem+json"


def test_own_pages_and_programs_are_let_in(server: ImgsimServer, client: httpx.Client) -> None:
    for headers in (
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": server.url},
        {"Sec-Fetch-Site": "none"},
        {"Origin": server.url},
    ):
        assert client.post("/encode", content=IMAGE, headers=headers).status_code == 200


def test_other_sites_may_not_read_the_answers(client: httpx.Client) -> None:
    response = client.get("/images", headers={"Origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in response.headers
