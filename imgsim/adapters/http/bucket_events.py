"""``/events/s3``: a bucket's server tells what landed in it."""

import asyncio
import hmac
from collections.abc import Sequence
from urllib.parse import unquote_plus

import msgspec
from litestar import post

from imgsim.adapters.http import openapi
from imgsim.adapters.http.bodies import AnyRequest, read_json
from imgsim.adapters.http.services import Injected
from imgsim.core.errors import Forbidden, Unauthorized
from imgsim.core.services.bucket_events import Taken


class _Bucket(msgspec.Struct):
    name: str


class _Object(msgspec.Struct):
    key: str
    """As in a query string: ``my+cat%C3%A9.jpg``."""


class _S3(msgspec.Struct):
    bucket: _Bucket
    object: _Object


class Record(msgspec.Struct, rename="camel"):
    event_name: str
    s3: _S3

    @property
    def creates(self) -> bool:
        return self.event_name.removeprefix("s3:").startswith("ObjectCreated:")  # AWS has no s3: before it


class Notification(msgspec.Struct, rename="pascal"):
    """What MinIO's webhook and AWS send; all else in it is passed over. AWS's test event has no records."""

    event_name: str = ""
    key: str = ""
    """What MinIO says of the first record, once more."""
    records: list[Record] = []


class Reception(msgspec.Struct):
    results: Sequence[Taken]


@post(
    "/events/s3",
    status_code=200,
    tags=["events"],
    opt={"open": True},  # it has a secret of its own
    summary="A bucket notification, as MinIO's webhook sends it",
    operation_class=openapi.json_body(
        Notification,
        {
            "EventName": "s3:ObjectCreated:Put",
            "Key": "photos/2026/cat.jpg",
            "Records": [
                {
                    "eventName": "s3:ObjectCreated:Put",
                    "s3": {"bucket": {"name": "photos"}, "object": {"key": "2026%2Fcat.jpg", "size": 183042}},
                }
            ],
        },
    ),
    responses={
        200: openapi.answer(Reception, "What was created is stored, or never will be"),
        **openapi.problems(403, 413, 503),
    },
)
async def receive_bucket_event(request: AnyRequest, services: Injected) -> Reception:
    """Answers when the new objects are durable as images of the collection `events_s3.collection`.

    Needs `Authorization: Bearer` with `events_s3.secret`. Objects that are no images, too large, or gone are passed
    over with the reason, and so are events of removals; after any other status, send it again.
    """
    events = services.bucket_events()
    if events is None:
        raise Forbidden(
            "Bucket notifications are not taken here: events_s3.secret and events_s3.sources "
            "(IMGSIM_EVENTS_S3__SECRET, IMGSIM_EVENTS_S3__SOURCES) are not both set."
        )
    _check_secret(services.event_secret, request.headers.get("authorization", ""))
    notification = await read_json(request, Notification)
    created = [each.s3 for each in notification.records if each.creates]
    events.check([each.bucket.name for each in created])
    taken = await asyncio.gather(
        *(events.take(each.bucket.name, unquote_plus(each.object.key)) for each in created), return_exceptions=True
    )
    for each in taken:
        if isinstance(each, BaseException):  # all have ended by now
            raise each
    return Reception([each for each in taken if isinstance(each, Taken)])


def _check_secret(secret: str, given: str) -> None:
    scheme, _, token = given.partition(" ")
    if not hmac.compare_digest(token.strip().encode(), secret.encode()) or scheme.lower() != "bearer":
        raise Unauthorized("Send events_s3.secret, in MinIO auth_token: Authorization: Bearer SECRET.")
