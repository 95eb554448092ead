"""``/images/{id}/file`` and ``/thumbnail`` over HTTP: bytes, caching, presigned URLs, and what a delete leaves."""

import hashlib
import io
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from PIL import Image

from tests.processes import ImgsimServer, wait_until_at_rest
from tests.servers import SeaweedFS

Json = dict[str, Any]

UNKNOWN = "01900000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def stored(server: ImgsimServer, photos: list[Path]) -> Json:
    """A photograph that is done."""
    with server.client() as client:
        return uploaded(client, photos[30].read_bytes(), "files")


def uploaded(client: httpx.Client, data: bytes, collection: str) -> Json:
    response = client.post("/images/upload", files={"file": ("a photo.jpg", data)}, data={"collection": collection})
    image: Json = wait_until_at_rest(client, response.raise_for_status().json()["id"])
    assert image["state"] == "done", image
    return image


def derived(server: ImgsimServer, image: Json) -> list[str]:
    folder = server.data_dir / "objects" / "derived" / image["id"][-2:] / image["id"]
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def shown(response: httpx.Response) -> tuple[int, int]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/webp"
    assert response.headers["x-content-type-options"] == "nosniff"
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.format == "WEBP"
        return image.size


# thumbnails


def test_the_stage_has_made_the_small_one_and_the_large_one_comes_when_asked_for(
    server: ImgsimServer, client: httpx.Client, stored: Json
) -> None:
    assert derived(server, stored) == ["thumbnail-small.webp"]
    url = f"/images/{stored['id']}/thumbnail"
    sizes = stored["features"]["thumbnail"]
    for query, name in (("", "small"), ("?size=small", "small"), ("?size=100", "small"), ("?size=256", "small")):
        assert list(shown(client.get(url + query))) == sizes[name]
    assert derived(server, stored) == ["thumbnail-small.webp"]
    for query in ("?size=257", "?size=large", "?size=5000"):
        assert list(shown(client.get(url + query))) == sizes["large"]
    assert derived(server, stored) == ["thumbnail-large.webp", "thumbnail-small.webp"]
    assert max(sizes["small"]) == 256
    assert max(sizes["large"]) == min(640, max(stored["width"], stored["height"]))


def test_a_browser_asks_once_a_week_and_then_by_tag(client: httpx.Client, stored: Json) -> None:
    first = client.get(f"/images/{stored['id']}/thumbnail")
    assert first.headers["cache-control"] == "private, max-age=604800"
    tag = first.headers["etag"]
    assert tag == f'"{hashlib.sha256(first.content).hexdigest()}"'
    again = client.get(first.url, headers={"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    other = client.get(f"{first.url}?size=large", headers={"If-None-Match": tag})
    assert (other.status_code, other.headers["etag"] != tag) == (200, True)


@pytest.mark.parametrize("size", ["0", "-1", "huge", "", "1.5", "1" * 40, "small,large"])
def test_a_size_that_is_none_is_400(client: httpx.Client, stored: Json, size: str) -> None:
    response = client.get(f"/images/{stored['id']}/thumbnail", params={"size": size})
    assert response.status_code == 400
    assert repr(size)[:20] in response.json()["detail"]


def test_an_unknown_image_has_no_thumbnail(client: httpx.Client) -> None:
    response = client.get(f"/images/{UNKNOWN}/thumbnail")
    assert (response.status_code, response.json()["type"]) == (404, "urn:imgsim:error:image-not-found")


def test_a_thumbnail_that_was_lost_is_made_anew(server: ImgsimServer, client: httpx.Client, photos: list[Path]) -> None:
    image = uploaded(client, photos[31].read_bytes(), "lost")
    url = f"/images/{image['id']}/thumbnail"
    before = client.get(url).content
    file = next((server.data_dir / "objects" / "derived").glob(f"*/{image['id']}/*"))
    file.unlink()
    assert client.get(url).content == before
    assert file.read_bytes() == before
    file.write_bytes(before[:1000])
    assert client.get(url).content == before
    assert file.read_bytes() == before


def test_an_image_whose_bytes_are_broken_or_gone_has_none(
    server: ImgsimServer, client: httpx.Client, photos: list[Path]
) -> None:
    image = uploaded(client, photos[32].read_bytes(), "broken")
    original = server.data_dir / "objects" / "originals" / image["id"][-2:] / image["id"]
    original.write_bytes(original.read_bytes()[:2000])
    broken = client.get(f"/images/{image['id']}/thumbnail?size=large")
    assert (broken.status_code, broken.json()["type"]) == (422, "urn:imgsim:error:broken-image")
    original.unlink()
    gone = client.get(f"/images/{image['id']}/thumbnail?size=large")
    assert (gone.status_code, gone.json()["type"]) == (404, "urn:imgsim:error:object-not-found")
    assert shown(client.get(f"/images/{image['id']}/thumbnail"))


def test_delete_removes_all_thumbnails(server: ImgsimServer, client: httpx.Client, photos: list[Path]) -> None:
    image = uploaded(client, photos[33].read_bytes(), "deleted")
    shown(client.get(f"/images/{image['id']}/thumbnail?size=large"))
    assert len(derived(server, image)) == 2
    assert client.delete(f"/images/{image['id']}").status_code == 204
    assert not [path for path in (server.data_dir / "objects").rglob("*") if image["id"] in path.name]
    assert client.get(f"/images/{image['id']}/thumbnail").status_code == 404


# files


@pytest.mark.parametrize(
    ("known", "status"),
    [
        ("{tag}", 304), ("W/{tag}", 304), ('"x", {tag}', 304), ('W/"x",W/{tag}', 304), ("*", 304),
        ('"x"', 200), ("x", 200), ("", 200), ("{bare}", 200), ('"x{bare}"', 200), ('"*"', 200),
    ],
)  # fmt: skip
def test_a_file_is_told_by_its_tag(client: httpx.Client, stored: Json, known: str, status: int) -> None:
    header = known.format(tag=f'"{stored["sha256"]}"', bare=stored["sha256"])
    response = client.get(f"/images/{stored['id']}/file", headers={"If-None-Match": header})
    assert response.status_code == status
    assert response.headers["etag"] == f'"{stored["sha256"]}"'
    assert response.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert len(response.content) == (stored["bytes"] if status == 200 else 0)


def test_a_file_is_shown_or_saved(client: httpx.Client, stored: Json) -> None:
    url = f"/images/{stored['id']}/file"
    name = f"filename*=UTF-8''{quote(stored['filename'])}"
    assert client.get(url).headers["content-disposition"] == f"inline; {name}"
    saved = client.get(url, params={"download": "true"})
    assert saved.headers["content-disposition"] == f"attachment; {name}"
    assert saved.content == client.get(url).content
    assert client.get(url, params={"download": "perhaps"}).status_code == 400


def test_head_says_what_get_would(client: httpx.Client, stored: Json) -> None:
    url = f"/images/{stored['id']}/file"
    head, got = client.head(url), client.get(url)
    assert head.content == b""
    for each in (head, got):
        del each.headers["date"]
    assert (head.status_code, head.headers) == (got.status_code, got.headers)
    assert got.headers["accept-ranges"] == "bytes"
    assert client.head(f"/images/{UNKNOWN}/file").status_code == 404


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("0-0", 0, 1),
        ("5-99", 5, 100),
        ("100-", 100, None),
        ("-7", -7, None),
        ("0-99999999", 0, None),
        ("-9999999", 0, None),
    ],
)
def test_a_range_of_a_file(
    client: httpx.Client, photos: list[Path], stored: Json, asked: str, start: int, end: int | None
) -> None:
    data = photos[30].read_bytes()
    response = client.get(f"/images/{stored['id']}/file", headers={"Range": f"bytes={asked}"})
    assert (response.status_code, response.content) == (206, data[start:end])
    first = start % len(data)
    assert response.headers["content-range"] == f"bytes {first}-{first + len(response.content) - 1}/{len(data)}"
    assert response.headers["content-length"] == str(len(response.content))


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=0-1,4-5", "bytes=x-", "lines=0-1", "bytes=-", "bytes 0-1"])
def test_what_is_no_single_range_gives_all(client: httpx.Client, stored: Json, asked: str) -> None:
    response = client.get(f"/images/{stored['id']}/file", headers={"Range": asked})
    assert (response.status_code, len(response.content)) == (200, stored["bytes"])


def test_a_range_of_another_version_gives_all_and_one_past_the_end_is_416(client: httpx.Client, stored: Json) -> None:
    url = f"/images/{stored['id']}/file"
    assert client.get(url, headers={"Range": "bytes=0-1", "If-Range": '"other"'}).status_code == 200
    assert client.get(url, headers={"Range": "bytes=0-1", "If-Range": f'"{stored["sha256"]}"'}).status_code == 206
    for past in (f"bytes={stored['bytes']}-", "bytes=-0"):
        response = client.get(url, headers={"Range": past})
        assert (response.status_code, response.headers["content-range"]) == (416, f"bytes */{stored['bytes']}")
        assert response.headers["content-type"] == "application/problem+json"


# where the object store has presigned URLs


def test_a_store_with_presigned_urls_serves_thumbnails_itself(
    seaweedfs: SeaweedFS, tmp_path: Path, photos: list[Path]
) -> None:
    environment = {
        "IMGSIM_OBJECTS__URL": seaweedfs.new_bucket(), "IMGSIM_EMBEDDER__URL": "colour:", **seaweedfs.environment
    }  # fmt: skip
    with ImgsimServer(tmp_path / "data", environment) as server, server.client() as client:
        data = photos[0].read_bytes()
        image = uploaded(client, data, "s3")
        url = f"/images/{image['id']}/thumbnail"
        small = client.get(url)
        assert small.status_code == 307
        assert small.headers["cache-control"] == "private, max-age=300"
        there = httpx.get(small.headers["location"])
        assert list(shown_there(there)) == image["features"]["thumbnail"]["small"]
        made = client.get(url, params={"size": "large"})
        assert list(shown(made)) == image["features"]["thumbnail"]["large"]
        large = client.get(url, params={"size": "large"})
        assert large.status_code == 307
        assert httpx.get(large.headers["location"]).content == made.content

        file = f"/images/{image['id']}/file"
        assert httpx.get(client.get(file).headers["location"]).content == data
        head = client.head(file)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(data)))
        assert client.get(file, headers={"If-None-Match": f'"{image["sha256"]}"'}).status_code == 304

        assert client.delete(f"/images/{image['id']}").status_code == 204
        for gone in (small, large):
            assert httpx.get(gone.headers["location"]).status_code == 404


def shown_there(response: httpx.Response) -> tuple[int, int]:
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/webp"
    assert response.headers["content-disposition"] == "inline; filename*=UTF-8''a%20photo.webp"
    with Image.open(io.BytesIO(response.content)) as image:
        return image.size
