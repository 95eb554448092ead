"""The files of the page, and the sessions that let a browser in: over HTTP, without a browser."""

import re
import time
from collections.abc import Iterator
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from imgsim.adapters.http.sessions import Sessions
from tests.integration.test_http_operations import UNKNOWN, assert_problem
from tests.processes import ImgsimServer

WEB = sorted(each.name for each in files("imgsim.adapters.http").joinpath("web").iterdir())
EXPIRES = 30 * 24 * 3600


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImgsimServer]:
    settings = {"IMGSIM_AUTH__KEYS": "first-key,second-key", "IMGSIM_EMBEDDER__URL": "colour:"}
    with ImgsimServer(tmp_path_factory.mktemp("closed") / "data", settings) as server:
        yield server


# the files


def web(client: httpx.Client) -> str:
    """Where the page has its files."""
    found = re.search('"(/web/[0-9a-f]{20})/app.js"', client.get("/").text)
    assert found
    return found[1]


def test_the_page_may_load_nothing_from_elsewhere_and_runs_no_script_of_its_own(client: httpx.Client) -> None:
    response = client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().partition(" ")[::2] for part in response.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    page = response.text
    assert re.findall(r"<script[^>]*>", page) == [f'<script type="module" src="{web(client)}/app.js">']
    assert not re.search(r"<style|\sstyle=|\son\w+=", page)
    assert "<noscript>" in page


@pytest.mark.parametrize("name", WEB)
def test_every_file_is_served_with_its_type_and_refers_to_its_neighbours_only(client: httpx.Client, name: str) -> None:
    response = client.get(f"{web(client)}/{name}")
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}
    assert response.headers["content-type"].split(";")[0] == kinds[name.rpartition(".")[2]]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", response.text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", response.text)
    for imported in re.findall(r'from "([^"]*)"', response.text):
        assert imported.removeprefix("./") in WEB


def test_the_page_is_asked_for_each_time_and_its_files_once_for_each_version(client: httpx.Client) -> None:
    for path, caching in (
        ("/", "no-cache"),
        (f"{web(client)}/app.js", "public, max-age=31536000, immutable"),
        ("/web/another/app.js", "no-cache"),  # amid an upgrade
    ):
        first = client.get(path)
        assert first.headers["cache-control"] == caching
        again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
        assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "%2e%2e", "..%2Findex.html", "more/index.html"])
def test_there_is_nothing_else_in_the_folder(client: httpx.Client, name: str) -> None:
    assert_problem(client.get(f"{web(client)}/{name}"), 404, "not-found")


def test_programs_that_take_no_html_are_told_where_what_is(client: httpx.Client) -> None:
    answer = client.get("/", headers={"Accept": "application/json"})
    assert answer.headers["vary"] == "Accept"
    for link in answer.json()["links"].values():
        assert client.get(link).status_code == 200


@pytest.mark.parametrize("quality", ["1e999", "x", "-1", ""])
def test_an_accept_header_that_makes_no_sense_gets_the_page(client: httpx.Client, quality: str) -> None:
    assert client.get("/", headers={"Accept": f"a/b;q={quality}"}).status_code == 200


# sessions


def sign_in(server: ImgsimServer, **body: Any) -> httpx.Response:
    with server.client() as client:
        return client.post("/session", **body)


@pytest.mark.parametrize(
    "body",
    [{"json": {"key": "first-key"}}, {"data": {"key": "second-key"}}, {"files": {"key": (None, "first-key")}}],
)
def test_a_key_gives_a_cookie_that_opens_the_api(locked: ImgsimServer, body: Any) -> None:
    with locked.client() as client:
        assert client.get("/session").json() == {"needs_key": True, "signed_in": False}
        response = client.post("/session", **body)
        assert response.status_code == 204
        cookie = response.headers["set-cookie"]
        assert re.search("HttpOnly", cookie, re.IGNORECASE)
        assert re.search("SameSite=strict", cookie, re.IGNORECASE)
        assert f"Max-Age={EXPIRES}" in cookie
        assert "key" not in cookie
        assert "Secure" not in cookie
        assert client.get("/session").json() == {"needs_key": True, "signed_in": True}
        assert client.get("/images").status_code == 200
        assert client.delete(f"/images/{UNKNOWN}").status_code == 404
        assert client.delete("/session").status_code == 204
        assert client.get("/images").status_code == 401


def test_behind_https_the_cookie_stays_there(locked: ImgsimServer) -> None:
    host = urlsplit(locked.url).netloc
    response = sign_in(locked, json={"key": "first-key"}, headers={"Origin": f"https://{host}"})
    assert "Secure" in response.headers["set-cookie"]


def test_what_is_no_key_gives_no_cookie(locked: ImgsimServer) -> None:
    for body in ({"json": {"key": "third-key"}}, {"data": {"key": ""}}, {"json": {"key": ""}}):
        response = sign_in(locked, **body)
        assert response.status_code in (400, 401)
        assert "set-cookie" not in response.headers
    for body in ({"json": {}}, {"json": []}, {"content": b""}, {"data": {"name": "first-key"}}, {"content": b"\xff"}):
        assert_problem(sign_in(locked, **body), 400, "invalid-request")


def test_a_token_that_was_changed_or_has_ended_opens_nothing(locked: ImgsimServer) -> None:
    token = sign_in(locked, json={"key": "first-key"}).cookies["imgsim_session"]
    expires, _, signature = token.partition(".")
    assert abs(int(expires) - time.time() - EXPIRES) < 60
    for wrong in (
        f"{int(expires) + 1}.{signature}",
        f"{int(time.time()) - 1}.{signature}",
        f"{expires}.{'0' * 64}",
        expires,
        f"{expires}.",
        ".",
        "x.y",
        "first-key",
    ):
        with locked.client(cookies={"imgsim_session": wrong}) as client:
            assert_problem(client.get("/images"), 401, "unauthorized")


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
    ],
)
def test_with_a_cookie_pages_of_other_origins_change_nothing(locked: ImgsimServer, headers: dict[str, str]) -> None:
    token = sign_in(locked, json={"key": "first-key"}).cookies["imgsim_session"]
    with locked.client(cookies={"imgsim_session": token}) as client:
        for method, path in (("POST", "/search"), ("DELETE", f"/images/{UNKNOWN}"), ("PATCH", f"/images/{UNKNOWN}")):
            assert_problem(client.request(method, path, headers=headers), 403, "forbidden")
        assert client.delete(f"/images/{UNKNOWN}", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 404
    with locked.client(headers={"X-API-Key": "first-key"}) as client:  # which no browser sends by itself
        assert client.delete(f"/images/{UNKNOWN}", headers=headers).status_code == 404


def test_a_session_outlives_its_process_and_ends_with_its_key() -> None:
    token = Sessions(["one", "two"]).token("two")
    assert Sessions(["two"]).holds(token)
    assert Sessions(["three", "two"]).holds(token)
    assert not Sessions(["one"]).holds(token)
    assert not Sessions([]).holds(token)


def test_an_open_server_needs_no_session(client: httpx.Client) -> None:
    assert client.get("/session").json() == {"needs_key": False, "signed_in": False}
    response = client.post("/session", json={"key": "any"})
    assert response.status_code == 204
    assert "set-cookie" not in response.headers
