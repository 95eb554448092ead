"""The page at ``/schema``: the OpenAPI description as plain HTML. No script, no outside request."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import msgspec
from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

Json = Mapping[str, Any]

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>imgsim: the API</title>
<style>
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
details { border-top: 1px solid color-mix(in srgb, currentColor 25%, transparent); padding: .5rem 0 }
summary { cursor: pointer }
summary b { font-family: ui-monospace, monospace }
pre, code { background: color-mix(in srgb, currentColor 8%, transparent); border-radius: .3rem }
pre { padding: .8rem; overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0 }
th { font-weight: 600 }
</style></head><body>
"""


class SchemaPage(OpenAPIRenderPlugin):
    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        description = msgspec.json.decode(self.render_json(request, openapi_schema))
        return (_HEAD + "\n".join(_page(description)) + "</body></html>\n").encode()


def _page(description: Json) -> Iterator[str]:
    info = description["info"]
    yield f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])} "
    yield 'For programs: <a href="/schema/openapi.json">OpenAPI</a>.</p>'
    for tag in description["tags"]:
        yield f"<h2>{escape(tag['name'].capitalize())}</h2><p>{escape(tag['description'])}</p>"
        for path, methods in sorted(description["paths"].items()):
            for method, operation in methods.items():
                if tag["name"] in operation.get("tags", ()):
                    yield from _operation(method.upper(), path, operation)
    yield "<h2>Shapes</h2>"
    for name, schema in sorted(description["components"]["schemas"].items()):
        about = _prose(schema.get("description", ""))
        yield f'<details id="{escape(name)}"><summary><b>{escape(name)}</b></summary>{about}{_fields(schema)}</details>'


def _operation(method: str, path: str, operation: Json) -> Iterator[str]:
    title = f"<b>{method} {escape(path)}</b> {escape(operation.get('summary', ''))}"
    yield f"<details><summary>{title}</summary>{_prose(operation.get('description', ''))}"
    if parameters := operation.get("parameters"):
        rows = [(each["name"], each["schema"], each["required"]) for each in parameters]
        yield f"<h4>Parameters</h4>{_table(rows)}"
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<h4>Body: <code>{escape(media_type)}</code></h4>{_content(content)}"
    for status, response in operation["responses"].items():
        yield f"<h4>{escape(status)}: {escape(response['description'])}</h4>"
        for media_type, content in response.get("content", {}).items():
            if not status.startswith("4"):
                yield f"<p><code>{escape(media_type)}</code></p>{_content(content)}"
    yield "</details>"


def _content(content: Json) -> str:
    examples = [
        f"<pre>{escape(json.dumps(each['value'], indent=2))}</pre>" for each in content.get("examples", {}).values()
    ]
    schema = content["schema"]
    return (_fields(schema) or f"<p>{_type(schema)}</p>") + "".join(examples)


def _fields(schema: Json) -> str:
    required = schema.get("required", ())
    return _table([(name, each, name in required) for name, each in schema.get("properties", {}).items()])


def _table(rows: list[tuple[str, Json, bool]]) -> str:
    if not rows:
        return ""
    lines = [
        f"<tr><th>{escape(name)}</th><td>{_type(schema)}{_limits(schema)}</td>"
        f"<td>{'' if required else 'may be left out'}</td><td>{_prose(schema.get('description', ''))}</td></tr>"
        for name, schema, required in rows
    ]
    return f"<table>{''.join(lines)}</table>"


def _type(schema: Json) -> str:
    """``array of Image``, with a link to the shape."""
    if reference := schema.get("$ref"):
        name = escape(reference.rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    if options := schema.get("oneOf"):
        return " or ".join(_type(option) for option in options)
    kinds = schema.get("type", "anything")
    kind = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    if "items" in schema:
        return f"{escape(kind)} of {_type(schema['items'])}"
    return escape(f"{kind} ({schema['format']})" if "format" in schema else kind)


def _limits(schema: Json) -> str:
    names = {"minimum": "at least", "maximum": "at most", "default": "default"}
    found = [f"{word} {schema[name]}" for name, word in names.items() if schema.get(name) is not None]
    return escape(f", {', '.join(found)}" if found else "")


def _prose(text: str) -> str:
    """Paragraphs, and code between backticks."""
    paragraphs = escape(text.replace("``", "`")).split("\n\n") if text else []
    return "".join(f"<p>{_code(paragraph)}</p>" for paragraph in paragraphs)


def _code(text: str) -> str:
    parts = text.split("`")
    return "".join(f"<code>{part}</code>" if odd % 2 else part for odd, part in enumerate(parts))
