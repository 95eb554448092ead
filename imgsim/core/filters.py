"""Filters as people write them, and what an index keeps so that they can be applied."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from imgsim.core.errors import InvalidRequest
from imgsim.core.models import ImageFilter, Scalar, SearchFilter

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d([Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d))?", re.ASCII)
MOST_TAGS = 100
"""That an image can have, and that a filter can name of a kind."""
_MOST_KEYS = 100
_LONGEST_TOKEN = 256
"""PostgreSQL indexes no text of more than 2.7 kB."""


def metadata_tokens(metadata: Mapping[str, Any]) -> list[str]:
    """What the scalars on the top level of `metadata` are found by: one text for each key with its value.

    ``"album":7`` for 7 and for 7.0, which are one number in JSON; a long one is its SHA-256.
    """
    return [_token(key, value) for key, value in metadata.items() if _is_scalar(value)]


def _token(key: str, value: Scalar) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    token = f"{json.dumps(key, ensure_ascii=False)}:{json.dumps(value, ensure_ascii=False)}"
    if len(token) > _LONGEST_TOKEN:
        return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
    return token


def microseconds(moment: datetime) -> int:
    """Since 1970: an integer that a float64 holds exactly until the year 2255."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time(text: str, name: str) -> datetime:
    """A date (its midnight in UTC) or a date-time of RFC 3339. ``InvalidRequest`` names the parameter `name`."""
    try:
        if not _RFC3339.fullmatch(text):
            raise ValueError("it does not look like one")
        moment = datetime.fromisoformat(text.upper())
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"{name} is a date or a date-time with its offset (RFC 3339), as 2026-01-31 or 2026-01-31T12:00:00Z "
            f"(in a URL, + is written %2B), not {text[:80]!r}."
        ) from error


def parse_metadata(pairs: Sequence[str]) -> Mapping[str, Scalar]:
    """``key=value`` each; the value is JSON if it is a JSON scalar, else a text. ``InvalidRequest``."""
    metadata: dict[str, Scalar] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InvalidRequest(f"metadata is key=value, not {pair[:80]!r}.")
        if key in metadata:
            raise InvalidRequest(f"metadata names the key {key[:80]!r} twice; it has one value.")
        metadata[key] = _scalar(text)
    return metadata


def _scalar(text: str) -> Scalar:
    try:
        value = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text
    return value if _is_scalar(value) and value not in (float("inf"), float("-inf")) else text


def parse_filter(
    *,
    collection: str | None = None,
    tag: Sequence[str] | None = None,
    any_tag: Sequence[str] | None = None,
    not_tag: Sequence[str] | None = None,
    created_from: str | None = None,
    created_to: str | None = None,
    metadata: Sequence[str] | Mapping[str, Scalar] | None = None,
) -> SearchFilter:
    """The filter that these parameters describe. ``InvalidRequest``."""
    where = SearchFilter(
        collection,
        tag or (),
        any_tag or (),
        not_tag or (),
        parse_time(created_from, "created_from") if created_from is not None else None,
        parse_time(created_to, "created_to") if created_to is not None else None,
        metadata if isinstance(metadata, Mapping) else parse_metadata(metadata or ()),
    )
    valid_filter(where)  # before anything is computed for it
    return where


def valid_filter(where: ImageFilter | SearchFilter) -> None:
    """``InvalidRequest`` for what no image can match, or no index can take."""
    for name, tags in (("tag", where.tags), ("any_tag", where.any_tags), ("not_tag", where.no_tags)):
        if len(tags) > MOST_TAGS:
            raise InvalidRequest(f"An image has at most {MOST_TAGS} tags; {name} was given {len(tags)}.")
    start, end = where.created_from, where.created_to
    if start is not None and end is not None and start >= end:
        raise InvalidRequest(
            f"created_from ({start.isoformat()}) must be earlier than created_to ({end.isoformat()}), "
            "which is not part of the range."
        )
    if isinstance(where, SearchFilter):
        _check_metadata(where.metadata)


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    if len(metadata) > _MOST_KEYS:
        raise InvalidRequest(f"A search filters by at most {_MOST_KEYS} keys of the metadata, not {len(metadata)}.")
    for key, value in metadata.items():
        if not _is_scalar(value):
            raise InvalidRequest(
                f"metadata is compared by texts, numbers, true, false and null; {key[:80]!r} has none of these."
            )


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)
