"""What the command line works on: a data directory, or a running server. Both take and give the same things."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from uuid import UUID

from imgsim.bulk import Uploads
from imgsim.client import AsyncClient, ClientError
from imgsim.core.errors import ImgsimError, InvalidRequest, Unauthorized
from imgsim.core.models import Image, ImageFilter, ImageState, SearchFilter
from imgsim.core.ports import Adapter
from imgsim.core.services.search import Page
from imgsim.settings import Settings
from imgsim.uploads import ServiceUploads, as_json

if TYPE_CHECKING:
    from imgsim.container import Container

Json = dict[str, Any]


class Target(Uploads, Protocol):
    """Images and answers are as they go over the wire. Errors are ``ImgsimError``."""

    async def search_image(self, path: Path, page: Page, where: SearchFilter) -> Json: ...

    async def search_text(self, text: str, page: Page, where: SearchFilter) -> Json: ...

    async def status(self) -> Json: ...

    async def failed(self) -> list[str]:
        """The ids of all images in error."""
        ...

    async def retry(self, image_id: str) -> Json: ...


class DirectoryTarget(ServiceUploads):
    """Works on the data directory itself, in this process."""

    def __init__(self, container: "Container") -> None:
        super().__init__(container.ingest(), container.lifecycle(), container.images(), container.events())
        self._container = container

    async def search_image(self, path: Path, page: Page, where: SearchFilter) -> Json:
        with path.open("rb") as file:
            found = await self._container.reader().inspect(file)
            sha256 = await self._container.reader().sha256(file)
        return as_json(await self._container.search().by_picture(found.picture, page, where, sha256))

    async def search_text(self, text: str, page: Page, where: SearchFilter) -> Json:
        return as_json(await self._container.search().by_text(text, page, where))

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
        return as_json(await self._container.lifecycle().retry(_uuid(image_id)))


class ServerTarget:
    """Works on a running server, over HTTP."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._repeats = False
        """Whether the last upload brought what was there: a run that resumes does so again and again."""

    async def upload(
        self,
        source: Path | BinaryIO,
        filename: str,
        collection: str,
        tags: Sequence[str],
        metadata: Json,
        on_copy: str,
    ) -> Json:
        image = await self._find(source, collection) if self._repeats else None
        if image is None:
            image = await self._client.upload(
                source, filename=filename, collection=collection, tags=tags, metadata=metadata, on_copy=on_copy
            )
        self._repeats = image.duplicate
        return as_json(image)

    async def _find(self, source: Path | BinaryIO, collection: str) -> Image | None:
        """The image that has the bytes of `source`, which need not be sent then."""
        sha256 = await asyncio.to_thread(_sha256, source)
        async with aclosing(self._client.list(collection=collection, sha256=sha256)) as images:
            async for image in images:
                return replace(image, duplicate=True) if image.sha256 == sha256 else None
        return None

    async def update(self, image_id: str, tags: Sequence[str], metadata: Json) -> Json:
        return as_json(await self._client.update(_uuid(image_id), tags=tags, metadata=metadata))

    async def wait(self, image_id: str) -> Json:
        return as_json(await self._client.wait(image_id))

    async def search_image(self, path: Path, page: Page, where: SearchFilter) -> Json:
        return as_json(await self._client.search(path, **_search_parameters(page, where)))

    async def search_text(self, text: str, page: Page, where: SearchFilter) -> Json:
        return as_json(await self._client.search(text=text, **_search_parameters(page, where)))

    async def status(self) -> Json:
        found = {"where": self._client.url, "checks": dict((await self._client.ready()).checks)}
        try:
            figures = await self._client.metrics()
        except ClientError:  # a part that is away cannot be counted
            return found
        return found | {"images": _labelled(figures, "imgsim_images"), "vectors": _labelled(figures, "imgsim_vectors")}

    async def failed(self) -> list[str]:
        return [str(image.id) async for image in self._client.list(state=ImageState.ERROR)]

    async def retry(self, image_id: str) -> Json:
        return as_json(await self._client.retry(_uuid(image_id)))

    async def check(self) -> None:
        """Return when an imgsim server that lets us in is there; for one error instead of one for each file."""
        try:
            await self._client.health()
        except ClientError as error:
            if error.status is None:
                raise
            raise InvalidRequest(f"What answers at {self._client.url} is no imgsim server.") from error
        try:
            async with aclosing(self._client.list()) as images:
                await anext(images, None)
        except Unauthorized as error:
            raise Unauthorized(
                f"{error.message} The command line sends the first of auth.keys (IMGSIM_AUTH__KEYS)."
            ) from error


@asynccontextmanager
async def open_target(settings: Settings, server: str | None, work: bool = False) -> AsyncIterator[Target]:
    """The server at `server`, or the data directory; with `work` images are processed here meanwhile."""
    if server is not None:
        keys = settings.auth.keys
        async with AsyncClient(server, keys[0].get_secret_value() if keys else "", retries=3) as client:
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


def _sha256(source: Path | BinaryIO) -> str:
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _search_parameters(page: Page, where: SearchFilter) -> Json:
    """The parameters of a search as ``POST /search`` names them, without those that say nothing."""
    body = {
        **{name: getattr(page, name) for name in ("limit", "min_score", "exact")},
        **{name: getattr(where, name) for name in ("collection", "created_from", "created_to", "metadata")},
        "tag": where.tags,
        "any_tag": where.any_tags,
        "not_tag": where.no_tags,
    }
    said = {name: value for name, value in body.items() if value not in (None, (), [], {}, False)}
    return as_json(said)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidRequest(f"{text!r} is no image id.") from error


def _labelled(figures: str, name: str) -> dict[str, int]:
    """``{label value: figure}`` of one metric with one label, in Prometheus' text format."""
    found = {}
    for line in figures.splitlines():
        if line.startswith(name + "{"):
            labels, _, value = line.rpartition(" ")
            found[labels.split('"')[1]] = int(float(value))
    return found
