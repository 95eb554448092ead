"""What Python has for a parameter, as the API writes it: in a query, a form, or JSON."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import msgspec

from imgsim.client.models import Example, Id


def given(**values: Any) -> dict[str, Any]:
    """Those that are not None, as JSON has them. Nothing more is sent, so that older servers understand it."""
    return {name: _plain(name, value) for name, value in values.items() if value is not None}


def as_query(values: Mapping[str, Any]) -> dict[str, Any]:
    """For a query string: metadata as ``key=value``, repeated as lists are."""
    pairs = dict(values)
    if "metadata" in pairs:
        pairs["metadata"] = [f"{key}={_text(value)}" for key, value in pairs["metadata"].items()]
    return pairs


def as_form(values: Mapping[str, Any]) -> dict[str, Any]:
    """For the fields of a form: lists repeat the field, but for objects, which are JSON."""
    return {
        name: [_text(each) for each in value] if _is_texts(value) else _text(value) for name, value in values.items()
    }


def as_examples(examples: Sequence[Id | Example]) -> list[Any] | None:
    """Ids alone where they weigh nothing special; None where there are none."""
    return [
        {"id": str(each.id), "weight": each.weight} if isinstance(each, Example) else str(each) for each in examples
    ] or None


def _plain(name: str, value: Any) -> Any:
    if name in ("tag", "any_tag", "not_tag") and isinstance(value, str):
        return [value]
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.astimezone()).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return msgspec.to_builtins(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
