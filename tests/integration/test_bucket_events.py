"""Bucket notifications over HTTP, with the objects on a real S3 server."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import httpx
import pytest

from imgsim.adapters.objects.s3_buckets import S3Buckets
from imgsim.container import Container
from imgsim.core.errors import InvalidRequest, SettingsError, Unavailable
from imgsim.settings import load_settings
from tests.processes import ImgsimServer, wait_until_at_rest
from tests.scripted import Request, ScriptedServer, answer
from tests.servers import SeaweedFS

SECRET = "minio-tells"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def bucket_server() -> Iterator[SeaweedFS]:
    """One of our own, as a test stops it."""
    with SeaweedFS() as running:
        yield running


@pytest.fixture(scope="module")
def s3(bucket_server: SeaweedFS) -> Any:
    client = bucket_server.client()
    for name in ("photos", "secrets"):
        client.create_bucket(Bucket=name)
    return client


@pytest.fixture(scope="module")
def taking(bucket_server: SeaweedFS, s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server that keeps its objects in the bucket ``imgsim``, and takes in that one and ``photos/in``."""
    sources = [f"s3://photos/in?endpoint={bucket_server.endpoint}", bucket_server.url]
    settings = {
        "IMGSIM_EMBEDDER__URL": "colour:",
        "IMGSIM_OBJECTS__URL": bucket_server.url,
        "IMGSIM_EVENTS_S3__SECRET": SECRET,
        "IMGSIM_EVENTS_S3__SOURCES": ",".join(sources),
        "IMGSIM_EVENTS_S3__COLLECTION": "from-buckets",
        "IMGSIM_AUTH__KEYS": "key",
        "IMGSIM_UPLOAD__MAX_BYTES": "200000",
        **bucket_server.environment,
    }
    folder = tmp_path_factory.mktemp("buckets")
    with ImgsimServer(folder / "data", settings) as server, server.client(headers={"X-API-Key": "key"}) as client:
        yield client


def record(bucket: str, key: str, event: str = "s3:ObjectCreated:Put") -> Json:
    """As MinIO writes it, with all its fields."""
    return {
        "eventVersion": "2.0",
        "eventSource": "minio:s3",
        "awsRegion": "",
        "eventTime": "2026-01-01T12:00:00.000Z",
        "eventName": event,
        "userIdentity": {"principalId": "minio"},
        "requestParameters": {"principalId": "minio", "region": "", "sourceIPAddress": "172.18.0.1"},
        "responseElements": {
            "x-amz-request-id": "17C5C1D2F9D6A8F0",
            "x-minio-deployment-id": "0a7e5ac0-8a5b-4a0c-bd0a-2f4a39c0c3cd",
            "x-minio-origin-endpoint": "http://169.254.169.254",
        },
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "Config",
            "bucket": {"name": bucket, "ownerIdentity": {"principalId": "minio"}, "arn": f"arn:aws:s3:::{bucket}"},
            "object": {
                "key": quote_plus(key),
                "size": 183042,
                "eTag": "5fc7298143efe1276d39a3466d4e255f",
                "contentType": "image/jpeg",
                "userMetadata": {"content-type": "image/jpeg"},
                "sequencer": "17C5C1D2FA8F1B0A",
            },
        },
        "source": {"host": "172.18.0.1", "port": "", "userAgent": "MinIO (linux; amd64) minio-go/v7.0.66"},
    }


def notify(client: httpx.Client, *records: Json, **more: Any) -> httpx.Response:
    first = records[0]["s3"] if records else {"bucket": {"name": ""}, "object": {"key": ""}}
    key = f"{first['bucket']['name']}/{first['object']['key']}"
    body = {"EventName": "s3:ObjectCreated:Put", "Key": key, "Records": list(records), **more}
    headers = {"Authorization": f"Bearer {SECRET}", "X-API-Key": ""}
    return client.post("/events/s3", json=body, headers=headers)


def results(response: httpx.Response) -> list[Json]:
    assert response.status_code == 200, response.text
    told: list[Json] = response.json()["results"]
    return told


@pytest.mark.parametrize("key", ["in/cat.jpg", "in/2026/my cat+dog 100%/Müller's.jpg"])
def test_what_lands_in_a_bucket_becomes_an_image_once(
    taking: httpx.Client, s3: Any, photos: list[Path], key: str
) -> None:
    s3.put_object(Bucket="photos", Key=key, Body=photos[20 + len(key)].read_bytes())

    (first,) = results(notify(taking, record("photos", key)))
    (again,) = results(notify(taking, record("photos", key, "s3:ObjectCreated:CompleteMultipartUpload")))

    assert (first["outcome"], first["source"], first["reason"]) == ("stored", f"s3://photos/{key}", None)
    assert (again["outcome"], again["image"]) == ("already-there", first["image"])
    image = wait_until_at_rest(taking, first["image"])
    assert (image["state"], image["collection"]) == ("done", "from-buckets")
    assert (image["filename"], image["metadata"]) == (key.rpartition("/")[2], {"source": f"s3://photos/{key}"})
    assert taking.get(f"/images/{image['id']}/file", follow_redirects=False).status_code == 307


def test_several_records_as_aws_writes_them(taking: httpx.Client, s3: Any, photos: list[Path]) -> None:
    for number in (3, 4):
        s3.put_object(Bucket="photos", Key=f"in/{number}.jpg", Body=photos[number].read_bytes())
    body = {"Records": [record("photos", f"in/{n}.jpg", "ObjectCreated:Copy") for n in (3, 4)]}

    told = taking.post("/events/s3", json=body, headers={"Authorization": f"Bearer {SECRET}"})

    assert [each["outcome"] for each in results(told)] == ["stored", "stored"]
    test_event = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "photos"}
    assert results(taking.post("/events/s3", json=test_event, headers={"Authorization": f"Bearer {SECRET}"})) == []


def test_what_can_never_be_an_image_is_passed_over_with_the_reason(
    taking: httpx.Client, s3: Any, photos: list[Path]
) -> None:
    photo = photos[5].read_bytes()
    objects = {"in/notes.txt": b"no image", "in/cut.jpg": photo[:3000], "in/large.jpg": photo * 40, "out/1.jpg": photo}
    for key, body in objects.items():
        s3.put_object(Bucket="photos", Key=key, Body=body)
    for key in ("in/empty", "in/folder/"):  # on connections of their own: the next request on one hangs in SeaweedFS
        url = s3.generate_presigned_url("put_object", Params={"Bucket": "photos", "Key": key})
        httpx.put(url).raise_for_status()
    keys = [*objects, "in/empty", "in/folder/", "in/gone.jpg"]

    told = results(notify(taking, *(record("photos", key) for key in keys)))

    assert {each["outcome"] for each in told} == {"passed-over"}
    reasons = dict(zip(keys, (each["reason"] for each in told), strict=True))
    assert "not an image" in reasons["in/notes.txt"]
    assert "cut off" in reasons["in/cut.jpg"]
    assert "more than 200000 bytes (upload.max_bytes)" in reasons["in/large.jpg"]
    assert "events_s3.sources" in reasons["out/1.jpg"]
    assert "in/gone.jpg" in reasons["in/gone.jpg"]
    assert "folder" in reasons["in/folder/"]


def test_a_removal_removes_nothing(taking: httpx.Client, s3: Any, photos: list[Path]) -> None:
    s3.put_object(Bucket="photos", Key="in/kept.jpg", Body=photos[6].read_bytes())
    (stored,) = results(notify(taking, record("photos", "in/kept.jpg")))

    assert results(notify(taking, record("photos", "in/kept.jpg", "s3:ObjectRemoved:Delete"))) == []
    assert taking.get(f"/images/{stored['image']}").status_code == 200


def test_our_own_objects_do_not_come_in_again(taking: httpx.Client, s3: Any, photos: list[Path]) -> None:
    taking.post("/images/upload", files={"file": photos[7].read_bytes()}).raise_for_status()
    own = [each["Key"] for each in s3.list_objects_v2(Bucket="imgsim", Prefix="originals/")["Contents"]]
    s3.put_object(Bucket="imgsim", Key="inbox/8.jpg", Body=photos[8].read_bytes())

    told = results(notify(taking, *(record("imgsim", key) for key in own), record("imgsim", "inbox/8.jpg")))

    assert [each["outcome"] for each in told] == ["passed-over"] * len(own) + ["stored"]
    assert "own" in told[0]["reason"]


def test_no_other_bucket_is_read_and_none_with_it(taking: httpx.Client, s3: Any, photos: list[Path]) -> None:
    s3.put_object(Bucket="photos", Key="in/9.jpg", Body=photos[9].read_bytes())
    s3.put_object(Bucket="secrets", Key="in/9.jpg", Body=photos[9].read_bytes())

    refused = notify(taking, record("photos", "in/9.jpg"), record("secrets", "in/9.jpg"))

    assert refused.status_code == 403
    assert "'secrets' is none of those that are taken in (events_s3.sources" in refused.json()["detail"]
    assert results(notify(taking, record("photos", "in/9.jpg")))[0]["outcome"] == "stored"


def test_only_the_secret_opens_it(taking: httpx.Client, server: ImgsimServer) -> None:
    for given in ("", "Bearer", "Bearer wrong", "Bearer key", f"Bearer {SECRET}x", f"Basic {SECRET}", SECRET):
        refused = taking.post("/events/s3", json={}, headers={"Authorization": given})
        assert (refused.status_code, refused.json()["type"]) == (401, "urn:imgsim:error:unauthorized")
    with server.client() as client:
        closed = notify(client, record("photos", "in/1.jpg"))
    assert closed.status_code == 403
    assert "IMGSIM_EVENTS_S3__SECRET, IMGSIM_EVENTS_S3__SOURCES" in closed.json()["detail"]


def test_a_notification_that_is_none_is_said_to_be_none(taking: httpx.Client) -> None:
    broken = record("photos", "in/1.jpg") | {"s3": {"bucket": {}}}
    refused = notify(taking, record("photos", "in/1.jpg"), Records=[broken])

    assert refused.status_code == 400
    assert "name" in refused.json()["detail"]


def test_what_minio_sends_while_the_store_is_away_it_sends_again(
    taking: httpx.Client, s3: Any, photos: list[Path], bucket_server: SeaweedFS
) -> None:
    s3.put_object(Bucket="photos", Key="in/10.jpg", Body=photos[10].read_bytes())
    bucket_server.stop()
    refused = notify(taking, record("photos", "in/10.jpg"))
    bucket_server.start()

    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    deadline = time.monotonic() + 30  # MinIO goes on, too
    while (sent := notify(taking, record("photos", "in/10.jpg"))).status_code == 503 and time.monotonic() < deadline:
        pass
    assert results(sent)[0]["outcome"] == "stored"


def test_a_source_that_is_no_bucket_is_a_setting_that_cannot_be_used() -> None:
    events = {"secret": SECRET, "sources": ["s3://photos?endpiont=http://minio:9000"]}
    with pytest.raises(SettingsError, match=r"The setting events_s3\.sources has no parameter 'endpiont'"):
        Container(settings=load_settings(overrides={"events_s3": events})).bucket_reader()


async def test_an_object_that_the_server_refuses_is_passed_over() -> None:
    """A second attempt would be refused too; one that has too many requests is asked again."""
    refusals = {"/photos/secret.jpg": 403, "/photos/cold.jpg": 400, "/photos/busy.jpg": 429}

    def script(request: Request) -> list[bytes]:
        return [answer(b"", refusals[request.path.partition("?")[0]])]

    with ScriptedServer(script) as server:
        environment = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            async with S3Buckets() as buckets:
                for key, kind in (("secret", InvalidRequest), ("cold", InvalidRequest), ("busy", Unavailable)):
                    with pytest.raises(kind, match="refuses the bucket photos"):
                        await anext(buckets.read("photos", f"{key}.jpg", server.url, "us-east-1"))
