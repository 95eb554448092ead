"""What is said to a Qdrant server, and what is made of its answers.

The server here knows the shape of the API alone: it records requests and gives the answers that Qdrant
documents. What the calls mean is tested by the contract suite, on a real server too where one is named.
"""

import asyncio
import json
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient

from imgsim.adapters.vectors import VECTOR_INDEXES, collection_name, qdrant
from imgsim.adapters.vectors.qdrant import QdrantVectorIndex
from imgsim.adapters.vectors.qdrant_options import ServerOptions
from imgsim.core.errors import ImgsimError, InvalidRequest, NotSearchable, Overloaded, SettingsError, Unavailable
from imgsim.core.models import Point, SearchFilter, Vector
from imgsim.core.ports import VectorIndex
from imgsim.settings import Settings, Vectors
from tests.servers import free_port

MODEL = "ViT-B-32/laion2b_s34b_b79k@1"
NAME = collection_name(MODEL)
HERE = f"/collections/{NAME}"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    bytes: int
    body: Any


@dataclass(frozen=True)
class Answer:
    result: Any = True
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None


class RecordingServer:
    """Answers ``METHOD path`` as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.collections: dict[str, int] = {}
        self.answers: dict[str, Callable[[Request], Answer]] = {}
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                url = urlsplit(self.path)
                request = Request(
                    self.command,
                    unquote(url.path),
                    parse_qs(url.query),
                    {name.lower(): value for name, value in self.headers.items()},
                    len(body),
                    json.loads(body) if body else None,
                )
                recorder.requests.append(request)
                answer = recorder.answer(request)
                content = answer.raw
                if content is None:
                    status: Any = "ok" if answer.status < 400 else {"error": answer.result}
                    content = json.dumps({"result": answer.result, "status": status, "time": 0.001}).encode()
                self.send_response_only(answer.status)
                for name, value in {**answer.headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def sent(self, method: str, path: str) -> list[Request]:
        return [each for each in self.requests if (each.method, each.path) == (method, path)]

    def answer(self, request: Request) -> Answer:
        if told := self.answers.get(f"{request.method} {request.path}"):
            return told(request)
        if request.path == "/collections/aliases":
            return Answer()
        if exists := re.fullmatch("/collections/([^/]+)/exists", request.path):
            return Answer({"exists": exists[1] in self.collections})
        if one := re.fullmatch("/collections/([^/]+)", request.path):
            if request.method == "PUT":
                self.collections[one[1]] = request.body["vectors"]["size"]
                return Answer()
            return Answer(_info(self.collections[one[1]]))
        if request.path == "/collections":
            return Answer({"collections": [{"name": name} for name in self.collections]})
        if request.path.endswith("/points/query"):
            return Answer({"points": []})
        return Answer({"operation_id": 1, "status": "completed"})


def _info(dimensions: int, indexed: Mapping[str, Any] = {}) -> Mapping[str, Any]:
    """A collection as the API describes it."""
    return {
        "status": "green",
        "optimizer_status": "ok",
        "segments_count": 2,
        "config": {
            "params": {"vectors": {"size": dimensions, "distance": "Cosine"}},
            "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000},
            "optimizer_config": {
                "deleted_threshold": 0.2,
                "vacuum_min_vector_number": 1000,
                "default_segment_number": 0,
                "flush_interval_sec": 5,
            },
        },
        "payload_schema": indexed,
    }


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    recording = RecordingServer()
    yield recording
    recording.close()


def at(url: str, **vectors: Any) -> VectorIndex:
    return VECTOR_INDEXES[url.partition(":")[0]](Settings(vectors=Vectors(url=url, **vectors)))


def point(n: int, dimensions: int = 4) -> Point:
    return Point(UUID(int=n), vector(dimensions), "cats", ("red",))


def vector(dimensions: int = 4) -> Vector:
    return np.full(dimensions, dimensions**-0.5, dtype=np.float32)


async def test_a_new_collection_is_laid_out_as_the_settings_say(server: RecordingServer) -> None:
    async with at(server.url, shards=6, replicas=3, api_key="geheim") as index:
        await index.open_collection(MODEL, 4)
    (made,) = server.sent("PUT", HERE)
    assert made.body == {
        "vectors": {"size": 4, "distance": "Cosine", "on_disk": True},
        "shard_number": 6,
        "replication_factor": 3,
        "write_consistency_factor": 2,
        "hnsw_config": {"m": 16, "ef_construct": 100, "payload_m": 16},
        "quantization_config": {"scalar": {"type": "int8", "quantile": 0.99, "always_ram": True}},
    }
    indexes = server.sent("PUT", f"{HERE}/index")
    assert [each.body for each in indexes] == [
        {"field_name": "collection", "field_schema": {"type": "keyword", "is_tenant": True}},
        {"field_name": "tags", "field_schema": {"type": "keyword"}},
        {"field_name": "created", "field_schema": {"type": "integer", "lookup": False, "range": True}},
        {"field_name": "metadata", "field_schema": {"type": "keyword"}},
    ]
    assert all(each.query["wait"] == ["true"] for each in indexes)
    assert {each.headers.get("api-key") for each in server.requests} == {"geheim"}


async def test_without_quantization_vectors_stay_in_memory_as_they_are(server: RecordingServer) -> None:
    async with at(server.url, quantization="none") as index:
        await index.open_collection(MODEL, 4)
        await index.query(MODEL, vector(), 10, SearchFilter())
    (made,) = server.sent("PUT", HERE)
    assert made.body["vectors"] == {"size": 4, "distance": "Cosine", "on_disk": False}
    assert "quantization_config" not in made.body
    assert made.body["write_consistency_factor"] == 1
    (asked,) = server.sent("POST", f"{HERE}/points/query")
    assert asked.body["params"] == {"hnsw_ef": 256}


async def test_a_collection_that_lacks_an_index_gets_it(server: RecordingServer) -> None:
    server.collections[NAME] = 4
    there = {"collection": {"data_type": "keyword", "points": 0}}
    server.answers[f"GET {HERE}"] = lambda request: Answer(_info(4, there))
    async with at(server.url) as index:
        await index.open_collection(MODEL, 4)
    assert server.sent("PUT", HERE) == []
    assert [each.body["field_name"] for each in server.sent("PUT", f"{HERE}/index")] == ["tags", "created", "metadata"]


async def test_a_collection_that_another_process_makes_meanwhile_is_taken(server: RecordingServer) -> None:
    def made_by_another(request: Request) -> Answer:
        server.collections[NAME] = 4
        return Answer(f"Wrong input: Collection `{NAME}` already exists!", 409)

    server.answers[f"PUT {HERE}"] = made_by_another
    async with at(server.url) as index:
        await index.open_collection(MODEL, 4)
    assert len(server.sent("PUT", f"{HERE}/index")) == 4


async def test_the_alias_is_switched_in_one_request(server: RecordingServer) -> None:
    server.collections[NAME] = 4
    async with at(server.url) as index:
        await index.set_live(MODEL)
    (switched,) = server.sent("POST", "/collections/aliases")
    assert switched.body == {
        "actions": [
            {"delete_alias": {"alias_name": "imgsim=live"}},
            {"create_alias": {"collection_name": NAME, "alias_name": "imgsim=live"}},
        ]
    }


async def test_a_query_scores_the_best_again_and_filters(server: RecordingServer) -> None:
    server.collections[NAME] = 4
    async with at(server.url) as index:
        assert await index.query(MODEL, vector(), 10, SearchFilter("cats", ("red", "old"))) == []
    (asked,) = server.sent("POST", f"{HERE}/points/query")
    assert asked.body["query"] == {"nearest": vector().tolist()}
    assert asked.body["limit"] == 10
    assert asked.body["with_payload"] is asked.body["with_vector"] is False
    assert asked.body["params"]["quantization"] == {"rescore": True, "oversampling": 4.0}
    assert asked.body["filter"]["must"] == [
        {"key": "collection", "match": {"value": "cats"}},
        {"key": "tags", "match": {"value": "red"}},
        {"key": "tags", "match": {"value": "old"}},
    ]


async def test_a_query_filters_by_dates_metadata_and_other_tags(server: RecordingServer) -> None:
    server.collections[NAME] = 4
    since, until = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    async with at(server.url) as index:
        await index.query(MODEL, vector(), 10, SearchFilter(None, (), ("a", "b"), ("c",), since, until, {"album": 7}))
    (asked,) = server.sent("POST", f"{HERE}/points/query")
    assert asked.body["filter"] == {
        "must": [
            {"key": "metadata", "match": {"value": '"album":7'}},
            {"key": "tags", "match": {"any": ["a", "b"]}},
            {"key": "created", "range": {"gte": 1767225600000000, "lt": 1767312000000000}},
        ],
        "must_not": [{"key": "tags", "match": {"any": ["c"]}}],
    }


async def test_an_exact_query_uses_neither_graph_nor_quantized_vectors(server: RecordingServer) -> None:
    server.collections[NAME] = 4
    async with at(server.url) as index:
        await index.query(MODEL, vector(), 10, SearchFilter(), exact=True)
    (asked,) = server.sent("POST", f"{HERE}/points/query")
    assert asked.body["params"] == {"exact": True, "quantization": {"ignore": True}}


async def test_a_sample_is_asked_for_at_random(server: RecordingServer) -> None:
    server.collections[NAME] = 4
    async with at(server.url) as index:
        assert (await index.sample(MODEL, "cats", 9)).shape == (0, 4)
    (asked,) = server.sent("POST", f"{HERE}/points/query")
    assert (asked.body["query"], asked.body["limit"]) == ({"sample": "random"}, 9)
    assert asked.body["filter"] == {"must": [{"key": "collection", "match": {"value": "cats"}}]}


async def test_many_upserts_at_once_are_few_requests_that_are_waited_for(server: RecordingServer) -> None:
    server.collections[NAME] = 4
    async with at(server.url) as index:
        await asyncio.gather(*[index.upsert(MODEL, [point(n)]) for n in range(200)])
        await index.set_payload(MODEL, UUID(int=1), ["blue"], {})
        await index.delete([UUID(int=1)])
    writes = server.sent("PUT", f"{HERE}/points")
    assert len(writes) <= 5
    assert [each["id"] for write in writes for each in write.body["points"]] == [str(UUID(int=n)) for n in range(200)]
    assert writes[0].body["points"][0]["payload"] == {"collection": "cats", "tags": ["red"], "metadata": []}
    writes += server.sent("POST", f"{HERE}/points/payload") + server.sent("POST", f"{HERE}/points/delete")
    assert [each.query for each in writes] == [{"wait": ["true"], "ordering": ["medium"]}] * len(writes)


async def test_a_request_never_has_more_bytes_than_a_server_takes(server: RecordingServer) -> None:
    server.collections[NAME] = 65_536
    async with at(server.url) as index:
        await index.upsert(MODEL, [point(n, 65_536) for n in range(12)])
    writes = server.sent("PUT", f"{HERE}/points")
    assert [len(each.body["points"]) for each in writes] == [10, 2]
    assert max(each.bytes for each in writes) < qdrant.BATCH_BYTES


async def test_a_point_that_the_server_refuses_fails_alone(server: RecordingServer) -> None:
    server.collections[NAME] = 4

    def refuse(request: Request) -> Answer:
        if any(each["id"] == str(UUID(int=3)) for each in request.body["points"]):
            return Answer("Wrong input: not this one", 400)
        return Answer({"operation_id": 1, "status": "completed"})

    server.answers[f"PUT {HERE}/points"] = refuse
    async with at(server.url) as index:
        upserts = [index.upsert(MODEL, [point(n)]) for n in range(5)]
        outcomes = await asyncio.gather(*upserts, return_exceptions=True)
    assert [type(each) for each in outcomes] == [type(None)] * 3 + [InvalidRequest] + [type(None)]
    assert "not this one" in str(outcomes[3])


@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        (Answer("Invalid API key or JWT", 401), Unavailable, "vectors.api_key"),
        (Answer("Write access denied", 403), Unavailable, "vectors.api_key"),
        (Answer(f"Not found: Collection `{NAME}` doesn't exist!", 404), NotSearchable, MODEL),
        (Answer("Help: lower limit", 400), InvalidRequest, "lower limit"),
        (Answer("too large", 413), InvalidRequest, "too large"),
        (Answer("too many", 429, {"Retry-After": "7"}), Overloaded, "too many"),
        (Answer("too many", 429), Unavailable, "too many"),
        (Answer("Service internal error", 500), Unavailable, "internal"),
        (Answer(raw=b"<html>no upstream</html>", status=502), Unavailable, "Bad Gateway"),
        (Answer("shards are away", 503), Unavailable, "shards are away"),
        (Answer("the disk is full", 507), Unavailable, "disk"),
        (Answer(raw=b"<html>a login page</html>"), Unavailable, "cannot be reached"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else "",
)
async def test_errors_of_the_server(
    server: RecordingServer, answer: Answer, expected: type[ImgsimError], words: str
) -> None:
    server.collections[NAME] = 4
    for path in ("POST /points/query", "PUT /points"):
        method, _, rest = path.partition(" ")
        server.answers[f"{method} {HERE}{rest}"] = lambda request: answer
    async with at(server.url, api_key="geheim") as index:
        for call in (index.query(MODEL, vector(), 1, SearchFilter()), index.upsert(MODEL, [point(1)])):
            with pytest.raises(expected, match=words) as caught:
                await call
            assert type(caught.value) in (expected, Overloaded)
            assert "geheim" not in str(caught.value)
            if isinstance(caught.value, Overloaded):
                assert caught.value.retry_after == 7


async def test_text_that_is_no_unicode_is_an_invalid_request(server: RecordingServer) -> None:
    server.collections[NAME] = 4
    async with at(server.url) as index:
        for call in (
            index.upsert(MODEL, [Point(UUID(int=1), vector(), "cats", ("\ud800",))]),
            index.query(MODEL, vector(), 1, SearchFilter("\ud800")),
            index.set_payload(MODEL, UUID(int=1), ["\ud800"], {}),
        ):
            with pytest.raises(InvalidRequest):
                await call


async def test_a_server_that_is_away_is_unavailable_at_once() -> None:
    async with at(f"http://127.0.0.1:{free_port()}", api_key="geheim") as index:
        for call in (index.ping(), index.open_collection(MODEL, 4), index.delete([UUID(int=1)]), index.live()):
            with pytest.raises(Unavailable, match="cannot be reached"):
                await call


async def test_a_server_that_does_not_answer_is_unavailable(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qdrant, "PING_SECONDS", 0.1)
    over = threading.Event()
    server.answers["GET /collections"] = lambda request: Answer({"collections": []}, 200 if over.wait(5) else 500)
    async with at(server.url) as index:
        with pytest.raises(Unavailable, match="TimeoutError"):
            await index.ping()
        over.set()
        await index.ping()


@pytest.mark.parametrize("url", ["http://", "https://u:geheim@[", "http://qdrant:99999", "https://two words"])
def test_a_url_that_is_none_names_the_setting_and_no_password(url: str) -> None:
    with pytest.raises(SettingsError, match=r"vectors\.url") as caught:
        at(url)
    assert "geheim" not in str(caught.value)


async def test_nothing_is_warned_of(server: RecordingServer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for url in (server.url, server.url.replace("http:", "https:")):
            async with at(url, api_key="geheim"):
                pass


@pytest.mark.filterwarnings("ignore:Local mode:UserWarning", "ignore:Payload indexes:UserWarning")
async def test_the_local_client_takes_what_the_server_is_told() -> None:
    options = ServerOptions(shards=2, replicas=2, quantized=True)
    async with QdrantVectorIndex(AsyncQdrantClient(":memory:"), options) as index:
        await index.open_collection(MODEL, 4)
        await index.upsert(MODEL, [point(n) for n in range(3)])
        assert len(await index.query(MODEL, vector(), 10, SearchFilter("cats", ("red",)))) == 3
