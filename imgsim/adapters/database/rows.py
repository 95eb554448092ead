"""Between table rows (dicts as the drivers give them) and the domain's dataclasses."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from imgsim.core.errors import InvalidRequest
from imgsim.core.models import EmbeddingInfo, Image, ImageError, ImageState, OnCopy, Reservation


def image_of(row: Mapping[str, Any]) -> Image:
    error = _json(row["error"])
    return Image(
        id=uuid_of(row["id"]),
        collection=row["collection"],
        state=ImageState(row["state"]),
        stage=row["stage"],
        duplicate=False,
        sha256=row["sha256"],
        filename=row["filename"],
        content_type=row["content_type"],
        bytes=row["bytes"],
        width=row["width"],
        height=row["height"],
        tags=_json(row["tags"]),
        metadata=_json(row["metadata"]),
        attempts=row["attempts"],
        error=ImageError(**error) if error else None,
        embedding=EmbeddingInfo(row["model"], row["dimensions"]) if row["model"] else None,
        features=_json(row["features"]),
        created_at=_datetime(row["created_at"]),
        updated_at=_datetime(row["updated_at"]),
        on_copy=OnCopy(row["on_copy"] or OnCopy.ACCEPT),
        states={ImageState(state): _datetime(time) for state, time in (_json(row["states"]) or {}).items()},
    )


def row_of(image: Image) -> dict[str, Any]:
    return {
        "id": image.id,
        "collection": image.collection,
        "sha256": image.sha256,
        "state": image.state.value,
        "stage": image.stage,
        "filename": image.filename,
        "content_type": image.content_type,
        "bytes": image.bytes,
        "width": image.width,
        "height": image.height,
        "tags": json_of(list(image.tags)),
        "metadata": json_of(image.metadata),
        "on_copy": image.on_copy.value,
        "features": json_of(image.features),
        "model": image.embedding.model if image.embedding else None,
        "dimensions": image.embedding.dimensions if image.embedding else None,
        "error": json_of(asdict(image.error)) if image.error else None,
        "attempts": image.attempts,
        "failures": 0,
        "owner": None,
        "due_at": image.created_at,
        "created_at": image.created_at,
        "updated_at": image.updated_at,
        "deleted_at": None,
        "states": json_of({state.value: str(time) for state, time in image.states.items()}),
    }


def reservation_of(row: Mapping[str, Any]) -> Reservation:
    return Reservation(
        id=uuid_of(row["id"]),
        collection=row["collection"],
        sha256=row["sha256"],
        filename=row["filename"],
        content_type=row["content_type"],
        bytes=row["bytes"],
        tags=_json(row["tags"]),
        metadata=_json(row["metadata"]),
        expires_at=_datetime(row["expires_at"]),
        image=uuid_of(row["image"]) if row["image"] else None,
        on_copy=OnCopy(row["on_copy"] or OnCopy.ACCEPT),
    )


def row_of_reservation(reservation: Reservation) -> dict[str, Any]:
    return {
        "id": reservation.id,
        "collection": reservation.collection,
        "sha256": reservation.sha256,
        "filename": reservation.filename,
        "content_type": reservation.content_type,
        "bytes": reservation.bytes,
        "tags": json_of(list(reservation.tags)),
        "metadata": json_of(reservation.metadata),
        "expires_at": reservation.expires_at,
        "image": reservation.image,
        "on_copy": reservation.on_copy.value,
    }


def json_of(value: Any) -> str:
    """``InvalidRequest`` for what JSON does not have: NaN, infinity, objects of other types."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"This cannot be stored as JSON: {error}.") from error


# SQLite's RETURNING carries no column types, so values may come as text where SELECT gives objects.


def uuid_of(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(str(value))


def _datetime(value: Any) -> datetime:
    return (value if isinstance(value, datetime) else datetime.fromisoformat(value)).astimezone(UTC)


def _json(value: Any) -> Any:
    return msgspec.json.decode(value) if isinstance(value, str | bytes) else value
