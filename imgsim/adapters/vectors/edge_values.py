"""Points and filters as Qdrant Edge takes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import qdrant_edge as edge

from imgsim.core.errors import InvalidRequest
from imgsim.core.models import Point, SearchFilter, Vector


def edge_point(point: Point, vector: Vector) -> edge.Point:
    payload = {"collection": point.collection, "tags": list(point.tags)}
    with refusing("point"):
        return edge.Point(point.id, vector.tolist(), payload)  # the engine reads a list twice as fast


def edge_filter(where: SearchFilter, names: set[str]) -> edge.Filter | None:
    wanted = []
    if where.collection is not None and names != {
        where.collection
    }:  # a filter that all pass costs a fifth of the query
        wanted.append(("collection", where.collection))
    wanted += [("tags", tag) for tag in where.tags]
    conditions: list[Any] = [edge.FieldCondition(key=key, match=edge.MatchValue(value)) for key, value in wanted]
    return edge.Filter(must=conditions) if conditions else None


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """The engine answers values that it cannot convert with an error of Python's own."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"The vector index cannot take this {what}: a text is no valid Unicode or a number too large."
        ) from error
