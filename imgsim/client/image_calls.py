"""Calls that store, read, change and remove images."""

import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack
from uuid import uuid4

import httpx
import msgspec
import numpy as np

from imgsim.client.caller import Caller, path_of
from imgsim.client.connection import Answer, Call
from imgsim.client.errors import NotFinished
from imgsim.client.models import Filters, Id
from imgsim.client.parameters import as_form, as_query, given
from imgsim.client.sources import Source, name_of, opened, readable
from imgsim.core.models import Image, ImagePage, ImageState, Vector

_FIRST_LOOK, _LONGEST_LOOK = 0.05, 1.0


class _Embedding(msgspec.Struct):
    vector: list[float]


class _WithVector(msgspec.Struct):
    embedding: _Embedding


class ImageCalls(Caller):
    async def upload(
        self,
        source: Source,
        *,
        filename: str | None = None,
        collection: str = "default",
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        on_copy: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Image:
        """Store an image; with `wait` return it when it is done or in error, within `timeout` seconds.

        ``duplicate`` is True where the collection had these bytes before this call, whatever attempts it took.
        `on_copy`: ``accept``, ``flag`` or ``reject`` what is a copy of another image. ``OSError`` for the source.
        """
        fields = given(collection=collection, tags=list(tags) or None, metadata=metadata, on_copy=on_copy)
        with ExitStack() as stack:
            file = await self._exchange.call(opened, source, stack)
            files = [("file", (name_of(source) if filename is None else readable(filename), file))]
            answer = await self._connection.call(Call("POST", "/images/upload", data=as_form(fields), files=files))
        image = answer.decode(Image)
        if image.duplicate and answer.unheard and _is_of(answer, image, fields):
            image = replace(image, duplicate=False)
        if not wait:
            return image
        return replace(await self.wait(image.id, timeout), duplicate=image.duplicate)

    async def get(self, image_id: Id) -> Image:
        return (await self._connection.call(Call("GET", path_of(image_id)))).decode(Image)

    async def vector(self, image_id: Id) -> Vector:
        """The embedding of an image that is done."""
        answer = await self._connection.call(Call("GET", path_of(image_id), params={"vector": True}))
        return np.array(answer.decode(_WithVector).embedding.vector, np.float32)

    async def wait(self, image_id: Id, timeout: float | None = None) -> Image:
        """The image once it is done or in error (look at ``state``). ``NotFinished`` after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_LOOK
        while True:
            image = await self.get(image_id)
            if image.at_rest:
                return image
            if deadline is not None and time.monotonic() + pause > deadline:
                raise NotFinished(f"The image {image_id} is still {image.state.value} after {timeout:g} s.")
            await self._exchange.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_LOOK)

    async def list(
        self,
        *,
        collection: str | None = None,
        state: ImageState | str | None = None,
        sha256: str | None = None,
        **filters: Unpack[Filters],
    ) -> AsyncGenerator[Image, None]:
        """All images that fit, newest first, fetched page by page; with `sha256` the one of `collection` (else
        ``default``) with these bytes alone."""
        query = as_query(given(collection=collection, state=state, sha256=sha256, **filters))
        async with aclosing(self._pages("/images", query, ImagePage)) as pages:
            async for page in pages:
                for image in page.images:
                    yield image

    async def update(
        self, image_id: Id, *, tags: Sequence[str] | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Image:
        """Replace what is given; None leaves it."""
        change = given(tags=None if tags is None else list(tags), metadata=metadata)
        return (await self._connection.call(Call("PATCH", path_of(image_id), json=change))).decode(Image)

    async def delete(self, image_id: Id) -> None:
        """Remove the image and all that was made of it. ``ImageNotFound`` if it was gone before this call."""
        await self._remove(Call("DELETE", path_of(image_id)))

    async def retry(self, image_id: Id) -> Image:
        """Have an image in error processed again. ``WrongState`` where it is not in error."""
        answer = await self._connection.call(Call("POST", f"{path_of(image_id)}/retry"), 409)
        if answer.response.status_code != 409:
            return answer.decode(Image)
        image = await self.get(image_id) if answer.unheard else None
        if image is None or image.state is ImageState.ERROR:
            raise answer.refusal()
        return image  # an attempt whose answer was lost has done it

    async def download(self, image_id: Id, path: str | os.PathLike[str]) -> Path:
        """Write the bytes as uploaded to `path`, which is replaced when they are all there. ``OSError``."""
        return await self._download(Call("GET", f"{path_of(image_id)}/file"), Path(path))

    async def thumbnail(self, image_id: Id, path: str | os.PathLike[str], *, size: str | int | None = None) -> Path:
        """As ``download``, of the WebP thumbnail: `size` is ``small``, ``large`` or pixels."""
        return await self._download(Call("GET", f"{path_of(image_id)}/thumbnail", params=given(size=size)), Path(path))

    async def _download(self, call: Call, path: Path) -> Path:
        partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
        file = await self._exchange.call(partial.open, "xb")

        async def take(response: httpx.Response) -> None:
            await self._exchange.call(file.seek, 0)
            await self._exchange.call(file.truncate)
            async with aclosing(self._exchange.chunks(response)) as chunks:
                async for chunk in chunks:
                    await self._exchange.call(file.write, chunk)

        try:
            with file:
                await self._connection.receive(call, take)
            await self._exchange.call(partial.replace, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return path


def _is_of(answer: Answer, image: Image, fields: Mapping[str, Any]) -> bool:
    """Whether an attempt of ours whose answer was lost has stored `image`: it came meanwhile, with what we sent."""
    sent = list(dict.fromkeys(fields.get("tags", ()))), fields.get("metadata", {})
    return image.created_at >= answer.began_at and (list(image.tags), image.metadata) == sent
