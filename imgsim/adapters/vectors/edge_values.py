"""Points and filters as Qdrant Edge takes them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import qdrant_edge as edge

from imgsim.adapters.vectors import payload_of
from imgsim.core.errors import InvalidRequest
from imgsim.core.filters import metadata_tokens, microseconds
from imgsim.core.models import Point, SearchFilter, Vector

PAYLOAD_INDEXES = {
    "collection": edge.PayloadSchemaType.Keyword,
    "tags": edge.PayloadSchemaType.Keyword,
    "created": edge.PayloadSchemaType.Integer,
    "metadata": edge.PayloadSchemaType.Keyword,
}


def edge_point(point: Point, vector: Vector) -> edge.Point:
    with refusing("point"):
        return edge.Point(point.id, vector.tolist(), payload_of(point))  # the engine reads a list twice as fast


def edge_filter(where: SearchFilter, names: set[str]) -> edge.Filter | None:
    must: list[Any] = [_is("tags", tag) for tag in where.tags]
    must += [_is("metadata", token) for token in metadata_tokens(where.metadata)]
    if where.collection is not None and names != {where.collection}:  # what all pass costs a fifth of the query
        must.append(_is("collection", where.collection))
    if where.any_tags:
        must.append(_any_tag(where.any_tags))
    created = [None if each is None else float(microseconds(each)) for each in (where.created_from, where.created_to)]
    if created != [None, None]:
        must.append(edge.FieldCondition(key="created", range=edge.RangeFloat(gte=created[0], lt=created[1])))
    must_not: list[Any] = [_any_tag(where.no_tags)] if where.no_tags else []
    return edge.Filter(must=must, must_not=must_not) if must or must_not else None


def _is(key: str, value: str) -> edge.FieldCondition:
    return edge.FieldCondition(key=key, match=edge.MatchValue(value))


def _any_tag(tags: Sequence[str]) -> edge.FieldCondition:
    return edge.FieldCondition(key="tags", match=edge.MatchAny(list(tags)))


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """The engine answers values that it cannot convert with an error of Python's own."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"The vector index cannot take this {what}: a text is no valid Unicode or a number too large."
        ) from error
