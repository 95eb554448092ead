"""The OpenAPI description where Litestar cannot read it off the handlers: bodies that are streamed, and examples."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
from litestar.openapi import ResponseSpec
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    Example,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
    SecurityScheme,
    Tag,
)
from litestar.openapi.spec.enums import OpenAPIFormat

from imgsim import __version__
from imgsim.adapters.http.schema_page import SchemaPage

_IMAGE_ID = "0193a5b2-6c1e-7d4f-8a9b-2f5e6c7d8e9f"
_IMAGE = {
    "id": _IMAGE_ID,
    "collection": "default",
    "state": "done",
    "stage": None,
    "duplicate": False,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "filename": "cat.jpg",
    "content_type": "image/jpeg",
    "bytes": 183042,
    "width": 1200,
    "height": 800,
    "tags": ["cat"],
    "metadata": {"album": 7},
    "attempts": 1,
    "error": None,
    "embedding": {"model": "efficientnet-lite0@1", "dimensions": 1280},
    "features": {},
    "on_copy": "accept",
    "created_at": "2026-01-01T12:00:00Z",
    "updated_at": "2026-01-01T12:00:01Z",
    "states": {
        "created": "2026-01-01T12:00:00Z",
        "pending": "2026-01-01T12:00:00.1Z",
        "embedding": "2026-01-01T12:00:00.2Z",
        "indexing": "2026-01-01T12:00:00.9Z",
        "done": "2026-01-01T12:00:01Z",
    },
}
_ANSWER = {
    "model": "efficientnet-lite0@1",
    "results": [{"image": _IMAGE, "score": 0.8312, "percentile": 99.7, "match": "similar"}],
    "next_cursor": None,
}


def _example(summary: str, value: dict[str, Any]) -> Example:
    """Encoded here, because Litestar leaves out what is None."""
    return Example(summary=summary, value=msgspec.Raw(msgspec.json.encode(value)))


IMAGE = _example("A photograph that is done", _IMAGE)
ANSWER = _example("One result", _ANSWER)


@dataclass
class Problem:
    """An error (RFC 9457). ``type`` is stable, ``detail`` is for people."""

    type: str
    title: str
    status: int
    detail: str


@dataclass
class Encoded:
    """``embedding`` where one was sent, ``embeddings`` where several were."""

    model: str
    dimensions: int
    embedding: list[float] | None = None
    embeddings: list[list[float]] | None = None


@dataclass
class Readiness:
    """``checks`` has one line per part: `ok`, or what is wrong with it."""

    status: str
    checks: dict[str, str]


_PROBLEMS = {
    400: "A value of the request cannot be used",
    401: "This needs an API key",
    403: "This is not allowed",
    404: "There is no such image",
    409: "The image is not in a state that allows this",
    413: "Too large",
    415: "Not an image of a format that is read here",
    416: "The range begins past the end of the file",
    422: "The image is broken or too large in pixels, or the model cannot do this",
    503: "A part that this needs is away; try again after `Retry-After` seconds",
}


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """With what every route may say: 400 and 401."""
    return {
        status: ResponseSpec(
            Problem, description=_PROBLEMS[status], media_type="application/problem+json", generate_examples=False
        )
        for status in sorted({400, 401, *statuses})
    }


def answer(kind: Any, description: str, media_type: str = "application/json", *examples: Example) -> ResponseSpec:
    return ResponseSpec(
        kind, description=description, media_type=media_type, generate_examples=False, examples=list(examples) or None
    )


def _text(description: str) -> Schema:
    return Schema(type=OpenAPIType.STRING, description=description)


def _list(description: str) -> Schema:
    return Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.STRING), description=description)


_FILE = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY, description="The image.")


def _form(properties: dict[str, Schema], required: list[str]) -> OpenAPIMediaType:
    return OpenAPIMediaType(schema=Schema(type=OpenAPIType.OBJECT, properties=dict(properties), required=required))


def _operation(content: dict[str, OpenAPIMediaType], required: bool = True) -> type[Operation]:
    body = RequestBody(content=content, required=required)

    @dataclass
    class OperationWithBody(Operation):
        request_body: RequestBody | None = field(default_factory=lambda: body)

        def __post_init__(self) -> None:
            self.request_body = body

    return OperationWithBody


def _schema_of(kind: type[msgspec.Struct], example: dict[str, Any]) -> OpenAPIMediaType:
    """msgspec's own JSON Schema of `kind`."""
    (schemas, components) = msgspec.json.schema_components([kind])
    raw = components[kind.__name__] if "$ref" in schemas[0] else schemas[0]
    properties = {
        name: Schema(
            type=_type_of(value),
            items=_items_of(value) if "array" in str(value.get("type")) else None,
            default=value.get("default"),
        )
        for name, value in raw.get("properties", {}).items()
    }
    schema = Schema(type=OpenAPIType.OBJECT, properties=dict(properties), description=raw.get("description"))
    return OpenAPIMediaType(schema=schema, examples={"example": Example(value=example)})


def _items_of(value: dict[str, Any]) -> Schema:
    return Schema(type=OpenAPIType.OBJECT if "$ref" in value.get("items", {}) else OpenAPIType.STRING)


def _type_of(value: dict[str, Any]) -> OpenAPIType | list[OpenAPIType] | None:
    if "anyOf" in value:
        return [OpenAPIType(option["type"]) for option in value["anyOf"] if "type" in option]
    return OpenAPIType(value["type"]) if "type" in value else None


def json_body(kind: type[msgspec.Struct], example: dict[str, Any], required: bool = True) -> type[Operation]:
    return _operation({"application/json": _schema_of(kind, example)}, required)


upload_body = _operation(
    {
        "multipart/form-data": _form(
            {
                "file": _FILE,
                "collection": _text("Where it belongs; `default` if left out."),
                "tags": _list("May repeat."),
                "metadata": _text("A JSON object."),
                "on_copy": _text("What to do with a copy of an image in the collection: `accept`, `flag` or `reject`."),
            },
            ["file"],
        )
    }
)


import_body = _operation(
    {
        "multipart/form-data": _form(
            {
                "file": Schema(
                    type=OpenAPIType.STRING,
                    format=OpenAPIFormat.BINARY,
                    description="A .zip, .tar (.gz, .bz2, .xz), .csv, .tsv, .parquet or .txt file.",
                ),
                "url": _text("Instead of a file: `s3://bucket/prefix`, where `imports.s3` lets it be read."),
                "collection": _text("Where the images belong; `default` if left out."),
                "tags": _list("Of every image; may repeat."),
                "on_copy": _text("As in an upload: `accept`, `flag` or `reject` copies of what the collection has."),
            },
            [],
        )
    }
)


def search_body(kind: type[msgspec.Struct]) -> type[Operation]:
    json_example = {"positive": [_IMAGE_ID], "negative": [], "limit": 10, "tag": ["cat"]}
    form = _form(
        {
            "file": _FILE,
            "collection": _text("Only in this collection; all if left out."),
            "tag": _list("Only those with this tag; may repeat: all must match."),
            "any_tag": _list("Only those with this tag; may repeat: one must match."),
            "not_tag": _list("Only those without this tag; may repeat."),
            "created_from": _text("Stored at this date or date-time (RFC 3339) or later."),
            "created_to": _text("Stored before this date or date-time (RFC 3339)."),
            "metadata": _list("`key=value`, may repeat; or once as a JSON object of scalars."),
            "limit": Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=100, default=10),
            "min_score": Schema(type=OpenAPIType.NUMBER, minimum=-1, maximum=1),
            "exact": Schema(type=OpenAPIType.BOOLEAN, default=False),
            "cursor": _text("`next_cursor` of the page before."),
        },
        ["file"],
    )
    return _operation({"multipart/form-data": form, "application/json": _schema_of(kind, json_example)})


def encode_body(kind: type[msgspec.Struct]) -> type[Operation]:
    files = Schema(type=OpenAPIType.ARRAY, items=_FILE, description="1 to 64 images.")
    return _operation(
        {
            "image/*": OpenAPIMediaType(schema=_FILE),
            "multipart/form-data": _form({"file": files}, ["file"]),
            "application/json": _schema_of(kind, {"text": "a cat on a sofa"}),
        }
    )


def openapi_config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="imgsim",
        version=__version__,
        description="Image upload, feature extraction and similarity search.",
        path="/schema",
        use_handler_docstrings=True,
        render_plugins=[SchemaPage(), JsonRenderPlugin()],
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer", description="Where the server has API keys."),
                "key": SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header"),
                "session": SecurityScheme(type="apiKey", name="imgsim_session", security_scheme_in="cookie"),
            }
        ),
        security=[{}, {"bearer": []}, {"key": []}, {"session": []}],
        tags=[
            Tag("images", "Upload, read, change and delete images."),
            Tag("imports", "Many images at once."),
            Tag("search", "What looks like this?"),
            Tag("duplicates", "Copies of one another, and identical bytes."),
            Tag("encode", "Embeddings without storing anything."),
            Tag("events", "State changes as they happen."),
            Tag("session", "A cookie for browsers, in place of a key."),
            Tag("operations", "For those who run it."),
        ],
    )
