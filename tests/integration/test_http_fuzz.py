"""Random requests at every route: whatever comes, it is never the server that is at fault."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.processes import ImgsimServer, wait_until_at_rest

UNKNOWN = "01900000-0000-7000-8000-000000000000"
METHODS = ["GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS"]
PATHS = ["", "/upload", "/{id}", "/{id}/file", "/{id}/similar", "/{id}/events", "/{id}/retry", "/{id}/thumbnail"]
ROUTES = [f"/images{path}" for path in PATHS] + [
    "/imports", "/imports/{id}", "/imports/{id}/failures",
    "/session", "/web/any/app.js",
    "/search", "/encode", "/health", "/ready", "/metrics", "/", "/schema", "/schema/openapi.json", "/collections",
]  # fmt: skip
FIELDS = [
    "file", "collection", "tag", "tags", "metadata", "limit", "min_score", "cursor", "state", "vector", "text", "url",
    "positive", "negative", "any_tag", "not_tag", "created_from", "created_to", "exact", "id", "weight",
]  # fmt: skip


def _picture() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(4).integers(0, 256, (24, 32, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


@dataclass(frozen=True)
class Target:
    client: httpx.Client
    server: ImgsimServer
    known_id: str


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server with one image."""
    folder = tmp_path_factory.mktemp("fuzz")
    with ImgsimServer(folder / "data", {"IMGSIM_EMBEDDER__URL": "colour:"}) as server, server.client() as client:
        known_id = client.post("/images/upload", files={"file": _picture()}).json()["id"]
        wait_until_at_rest(client, known_id)
        yield Target(client, server, known_id)


texts = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            "",
            "0",
            "1",
            "-1",
            "1e999",
            "nan",
            "true",
            "null",
            "\0",
            "done",
            "[",
            "{}",
            "2026-01-01",
            "a=1",
            UNKNOWN,
            "9" * 400,
        ]
    ),
)
names = st.one_of(st.sampled_from(FIELDS), st.text(max_size=10))
ids = st.one_of(st.sampled_from(["KNOWN", UNKNOWN]), st.text(min_size=1, max_size=40))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.just("KNOWN")),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
    max_leaves=12,
)
contents = st.one_of(
    st.binary(max_size=200),
    st.just(_picture()),
    st.integers(1, len(_picture())).map(lambda size: _picture()[:size]),
    st.binary(min_size=1, max_size=50).map(lambda junk: _picture()[:60] + junk + _picture()[60:]),
)
parts = st.lists(
    st.one_of(
        st.tuples(names, st.tuples(st.none(), texts)),
        st.tuples(st.just("file"), st.tuples(st.text(max_size=20), contents)),
    ),
    max_size=5,
)
bodies = st.one_of(
    st.none(),
    st.builds(lambda value: {"content": json.dumps(value).encode(), "json": True}, values),
    st.builds(
        lambda value: {"content": json.dumps(value).encode(), "json": True}, st.dictionaries(names, values, max_size=5)
    ),
    st.builds(lambda raw: {"content": raw}, contents),
    st.builds(lambda some: {"files": some}, parts),
    st.builds(
        lambda raw, kind: {"content": raw, "headers": {"Content-Type": kind}},
        st.binary(max_size=300),
        st.sampled_from(["application/json", "multipart/form-data; boundary=B", "multipart/form-data", "image/png"]),
    ),
)


def _request(target: Target, method: str, route: str, which: str, query: list[tuple[str, str]], body: Any) -> Any:
    path = route.replace("{id}", httpx.URL(path="/" + which).raw_path.decode()[1:].replace("/", "%2F"))
    options: dict[str, Any] = dict(body or {})
    if options.pop("json", False):
        options["headers"] = {"Content-Type": "application/json"}
        options["content"] = options["content"].replace(b"KNOWN", target.known_id.encode())
    return target.client.build_request(method, path.replace("KNOWN", target.known_id), params=query, **options)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    method=st.sampled_from(METHODS),
    route=st.sampled_from(ROUTES),
    which=ids,
    query=st.lists(st.tuples(names, texts), max_size=4),
    body=bodies,
)
def test_no_request_is_too_strange(
    target: Target, method: str, route: str, which: str, query: list[tuple[str, str]], body: Any
) -> None:
    if method == "DELETE" and which == "KNOWN":
        which = UNKNOWN
    try:
        request = _request(target, method, route, which, query, body)
    except (UnicodeEncodeError, httpx.InvalidURL):  # what this client cannot even say
        return
    response = target.client.send(request)
    assert response.status_code < 500 or response.status_code == 503, response.text
    if response.status_code >= 400 and method != "HEAD" and not response.url.path.startswith("/schema/"):
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == response.status_code


def test_after_all_that_the_server_is_well(target: Target) -> None:
    assert target.client.get("/ready").status_code == 200
    image = target.client.get(f"/images/{target.known_id}").json()
    assert image["state"] == "done"
    assert "Traceback" not in target.server.log.read_text()
