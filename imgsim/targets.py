"""What the command line works on: a data directory, or a running server. Both take and give the same things."""

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from uuid import UUID

import httpx
import msgspec

from imgsim.core.errors import ImgsimError, InvalidRequest, Unauthorized, Unavailable
from imgsim.core.models import Image, ImageFilter, ImageState, SearchFilter
from imgsim.core.ports import Adapter
from imgsim.core.services.search import Page
from imgsim.settings import Settings

if TYPE_CHECKING:
    from imgsim.container import Container

AT_REST = {ImageState.DONE.value, ImageState.ERROR.value}

_SECONDS_BETWEEN_LOOKS = 2.0

Json = dict[str, Any]


class Target(Protocol):
    """Images and answers are as they go over the wire. Errors are ``ImgsimError``."""

    async def upload(
        self, source: Path | BinaryIO, filename: str, collection: str, tags: Sequence[str], metadata: Json
    ) -> Json:
        """Store what is at the path, or in the seekable file from its start to its end. ``OSError``.

        A Path is opened for as long as it is sent; a file stays open.
        """
        ...

    async def wait(self, image_id: str) -> Json:
        """The image once it is done or in error."""
        ...

    async def search_image(self, path: Path, limit: int, collection: str | None) -> Json: ...

    async def search_text(self, text: str, limit: int, collection: str | None) -> Json: ...

    async def status(self) -> Json: ...

    async def failed(self) -> list[str]:
        """The ids of all images in error."""
        ...

    async def retry(self, image_id: str) -> Json: ...


class DirectoryTarget:
    """Works on the data directory itself, in this process."""

    def __init__(self, container: "Container") -> None:
        self._container = container

    async def upload(
        self, source: Path | BinaryIO, filename: str, collection: str, tags: Sequence[str], metadata: Json
    ) -> Json:
        with _opened(source) as file:
            image = await self._container.ingest().upload(file, filename, collection, tags, metadata)
        return _json(image)

    async def wait(self, image_id: str) -> Json:
        with self._container.events().listen(UUID(image_id)) as listener:
            while True:
                image = await self._container.images().get(UUID(image_id))
                if image.state in AT_REST:
                    return _json(image)
                with contextlib.suppress(TimeoutError):  # look again now and then: no event may be the last hope
                    await asyncio.wait_for(listener.next(), _SECONDS_BETWEEN_LOOKS)

    async def search_image(self, path: Path, limit: int, collection: str | None) -> Json:
        with path.open("rb") as file:
            found = await self._container.reader().inspect(file)
        where = SearchFilter(collection)
        return _json(await self._container.search().by_picture(found.picture, Page(limit), where))

    async def search_text(self, text: str, limit: int, collection: str | None) -> Json:
        return _json(await self._container.search().by_text(text, Page(limit), SearchFilter(collection)))

    async def status(self) -> Json:
        counts = await self._container.images().counts()
        vectors = self._container.vectors()
        models = {model: await vectors.count(model) for model in await vectors.models()}
        return {
            "where": str(self._container.settings().data_dir),
            "model": self._container.embedder().model_id,
            "checks": {name: await _answer_of(part) for name, part in self._container.services().adapters().items()},
            "images": {state.value: count for state, count in counts.items()},
            "vectors": models,
        }

    async def failed(self) -> list[str]:
        ids: list[UUID] = []
        while True:
            where = ImageFilter(state=ImageState.ERROR)
            images = await self._container.images().list(where, 100, ids[-1] if ids else None)
            ids += [image.id for image in images]
            if len(images) < 100:
                return [str(image_id) for image_id in ids]

    async def retry(self, image_id: str) -> Json:
        return _json(await self._container.lifecycle().retry(_uuid(image_id)))


class ServerTarget:
    """Works on a running server, over HTTP."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def upload(
        self, source: Path | BinaryIO, filename: str, collection: str, tags: Sequence[str], metadata: Json
    ) -> Json:
        fields = {"collection": collection, "tags": list(tags), "metadata": msgspec.json.encode(metadata)}
        with _opened(source) as file:
            file.seek(0)
            files = {"file": (readable(filename), file)}
            return await self._call("POST", "/images/upload", files=files, data=fields)

    async def wait(self, image_id: str) -> Json:
        pause = 0.05
        while True:
            image = await self._call("GET", f"/images/{image_id}")
            if image["state"] in AT_REST:
                return image
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 1.0)

    async def search_image(self, path: Path, limit: int, collection: str | None) -> Json:
        fields: Json = {"limit": str(limit)} | ({"collection": collection} if collection else {})
        with path.open("rb") as file:
            files = {"file": (readable(path.name), file)}
            return await self._call("POST", "/search", files=files, data=fields)

    async def search_text(self, text: str, limit: int, collection: str | None) -> Json:
        body = {"text": text, "limit": limit, "collection": collection}
        return await self._call("POST", "/search", json=body)

    async def status(self) -> Json:
        checks = (await self._send("GET", "/ready")).json()["checks"]
        found = {"where": str(self._client.base_url), "checks": checks}
        response = await self._send("GET", "/metrics")
        if response.status_code >= 400:  # a part that is away cannot be counted
            return found
        images, vectors = _labelled(response.text, "imgsim_images"), _labelled(response.text, "imgsim_vectors")
        return found | {"images": images, "vectors": vectors}

    async def failed(self) -> list[str]:
        ids: list[str] = []
        query: Json = {"state": "error", "limit": 100}
        while True:
            page = await self._call("GET", "/images", params=query)
            ids += [image["id"] for image in page["images"]]
            if page["next_cursor"] is None:
                return ids
            query["cursor"] = page["next_cursor"]

    async def retry(self, image_id: str) -> Json:
        return await self._call("POST", f"/images/{_uuid(image_id)}/retry")

    async def check(self) -> None:
        """Return when an imgsim server that lets us in is there; for one error instead of one for each file."""
        answer = await self._send("GET", "/health")
        if answer.status_code != 200 or "version" not in _object(answer):
            raise InvalidRequest(f"What answers at {self._client.base_url} is no imgsim server.")
        answer = await self._send("GET", "/images", params={"limit": 1})
        if answer.status_code == 401:
            raise _error_of(answer)

    async def _call(self, method: str, path: str, **arguments: Any) -> Json:
        response = await self._send(method, path, **arguments)
        if response.status_code >= 400:
            raise _error_of(response)
        return _object(response)

    async def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            return await self._client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"The server at {self._client.base_url} gave no answer: {reason}.") from error


@asynccontextmanager
async def open_target(settings: Settings, server: str | None, work: bool = False) -> AsyncIterator[Target]:
    """The server at `server`, or the data directory; with `work` images are processed here meanwhile."""
    if server is not None:
        keys = settings.auth.keys
        headers = {"Authorization": f"Bearer {keys[0].get_secret_value()}"} if keys else {}
        try:
            url = server if "://" in server else f"http://{server}"
            client = httpx.AsyncClient(base_url=url, headers=headers, timeout=60.0)
        except httpx.InvalidURL as error:
            raise InvalidRequest(f"{server!r} is no URL of a server: {error}.") from error
        async with client:
            target = ServerTarget(client)
            await target.check()
            yield target
        return
    from imgsim.container import Container
    from imgsim.running import opened, working  # takes its time, and a server needs it not

    container = Container(settings=settings)
    async with opened(container):
        if not work:
            yield DirectoryTarget(container)
            return
        async with working(container):
            yield DirectoryTarget(container)


async def _answer_of(part: Adapter) -> str:
    try:
        await part.ping()
    except ImgsimError as error:
        return error.message
    return "ok"


def looks_like_image(path: Path) -> bool:
    """Whether it is a file (and no pipe, which would block) that begins like an image. ``OSError``."""
    from imgsim.container import looks_like_image as begins_like_image

    return stat.S_ISREG(path.stat().st_mode) and begins_like_image(path)


def readable(path: Path | str) -> str:
    """A path as text that can be stored and printed: not every file name is UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def _opened(source: Path | BinaryIO) -> contextlib.AbstractContextManager[BinaryIO]:
    return source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source)


def _json(value: Image | Any) -> Json:
    built: Json = msgspec.to_builtins(value)
    return built


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidRequest(f"{text!r} is no image id.") from error


def _object(response: httpx.Response) -> Json:
    """The JSON object in `response`; empty where it holds something else."""
    try:
        body = response.json()
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {}


def _error_of(response: httpx.Response) -> ImgsimError:
    detail = str(_object(response).get("detail") or f"The server answered {response.status_code}.")
    status = response.status_code
    if status in (429, 502, 503, 504):
        return Unavailable(detail)
    if status == 401:
        return Unauthorized(f"{detail} The command line sends the first of auth.keys (IMGSIM_AUTH__KEYS).")
    return InvalidRequest(detail) if status == 400 else ImgsimError(detail)


def _labelled(figures: str, name: str) -> dict[str, int]:
    """``{label value: figure}`` of one metric with one label, in Prometheus' text format."""
    found = {}
    for line in figures.splitlines():
        if line.startswith(name + "{"):
            labels, _, value = line.rpartition(" ")
            found[labels.split('"')[1]] = int(float(value))
    return found
