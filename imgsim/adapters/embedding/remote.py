"""Embedder processes (``imgsim embedder``), one or several behind one URL, as an Embedder."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self, cast

import numpy as np

from imgsim.adapters.embedding import wire
from imgsim.adapters.embedding.checks import check_pictures, text_not_supported
from imgsim.adapters.embedding.client import EncodeClient
from imgsim.adapters.embedding.packaged import PackagedEmbedder, squash
from imgsim.core.errors import Overloaded, Unavailable
from imgsim.core.models import Picture, Vector, Vectors

_CONNECTIONS = 4
_LARGEST_BATCH = 16 * 1024 * 1024  # bytes of pictures, unless one alone has more

_SHRINK: Mapping[str, Callable[[Picture], Picture]] = {PackagedEmbedder.preprocessing: squash}
"""The step of a preprocessing that makes pictures small, where doing it here changes no vector: done twice, it does
nothing the second time. 0.15 MB go over the wire instead of 0.9, and the embedder, whose model takes no longer than
reading these would, keeps its cores for the model."""

_Entry = tuple[Picture, asyncio.Future[Vector]]


class RemoteEmbedder:
    """Sends what waits, in requests of at most `batch` pictures over at most 4 connections; at most `queue` wait.

    Nothing waits for a batch to fill: whenever a connection is free, it takes its share of what waits. A
    batch that is refused is sent again picture by picture, so that a bad one fails alone.
    """

    def __init__(self, client: EncodeClient, batch: int, queue: int) -> None:
        self._client = client
        self._batch = min(batch, wire.MOST_ITEMS)
        self._queue = queue
        self._model: wire.Description | None = None
        self._waiting: deque[_Entry] = deque()
        self._senders: set[asyncio.Task[None]] = set()
        self._busy = 0

    async def __aenter__(self) -> Self:
        """Asks which model is served; that one it stays, be it in another precision."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._client)
            self._model = await self._client.describe()
            self._open = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._model = None
        senders = list(self._senders)
        self._senders.clear()
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        _fail(self._waiting, _closed())
        self._waiting.clear()
        await self._open.aclose()

    async def ping(self) -> None:
        model = self._opened()
        self._client.check_model(await self._client.describe(), model)

    @property
    def model_id(self) -> str:
        return self._opened().model

    @property
    def preprocessing(self) -> str:
        """As the embedder has it, but without its precision.

        An embedder may begin with int8 at any restart, and of several behind one URL only some may have. By the gate
        their vectors are interchangeable, so all processes share one key of the embedding cache.
        """
        return wire.without_precision(self._opened().preprocessing)

    @property
    def dimensions(self) -> int:
        return self._opened().dimensions

    @property
    def input_size(self) -> int:
        return self._opened().input_size

    @property
    def supports_text(self) -> bool:
        return self._opened().supports_text

    async def embed_images(self, pictures: Sequence[Picture], urgent: bool = False) -> Vectors:
        model = self._opened()
        check_pictures(pictures)
        if not pictures:
            return np.empty((0, model.dimensions), np.float32)
        if urgent:  # past the queue here, and told to the embedder
            body = await asyncio.to_thread(_body, pictures, model.preprocessing)
            return await self._client.embed_pixels(body, len(pictures), model, urgent=True)
        if self._waiting and len(self._waiting) + len(pictures) > self._queue:
            raise Overloaded(
                f"{len(self._waiting)} pictures wait for the embedder and at most {self._queue} may (embedder.queue); "
                "try later.",
                retry_after=1.0,
            )
        loop = asyncio.get_running_loop()
        entries: list[_Entry] = [(picture, loop.create_future()) for picture in pictures]
        self._waiting.extend(entries)
        for _ in range(min(len(entries), _CONNECTIONS - len(self._senders))):
            self._senders.add(loop.create_task(self._send_batches(model)))
        try:
            return np.stack(await asyncio.gather(*(future for _, future in entries)))
        finally:
            self._forget(entries)

    async def embed_texts(self, texts: Sequence[str]) -> Vectors:
        model = self._opened()
        if not model.supports_text:
            raise text_not_supported(model.model)
        groups = [texts[start : start + wire.MOST_ITEMS] for start in range(0, len(texts), wire.MOST_ITEMS)]
        rows = [await self._client.embed_texts(group, model) for group in groups]
        return np.concatenate([np.empty((0, model.dimensions), np.float32), *rows])

    def _opened(self) -> wire.Description:
        if self._model is None:
            raise _closed()
        return self._model

    async def _send_batches(self, model: wire.Description) -> None:
        """Batch after batch while any waits."""
        try:
            while batch := self._take():
                self._busy += 1
                try:
                    await self._embed(batch, model)
                finally:
                    self._busy -= 1
                    _fail(batch, _closed())  # those that are not settled: this was cancelled
        finally:  # here and not in a callback, which would run later: whoever submits now must start another
            self._senders.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    def _take(self) -> list[_Entry]:
        """The next batch for one of the connections that are free, so that a small rest leaves none of them idle."""
        share = -(-len(self._waiting) // (_CONNECTIONS - self._busy))  # rounded up
        batch: list[_Entry] = []
        size = 0
        while self._waiting and len(batch) < min(share, self._batch):
            size += self._waiting[0][0].nbytes
            if batch and size > _LARGEST_BATCH:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _embed(self, batch: Sequence[_Entry], model: wire.Description) -> None:
        """Settle the futures of `batch`."""
        try:
            body = await asyncio.to_thread(_body, [picture for picture, _ in batch], model.preprocessing)
            rows = await self._client.embed_pixels(body, len(batch), model)
        except Unavailable as error:
            _fail(batch, error)
        except Exception as error:  # whatever it is, the callers are told, and the next batch is sent
            if len(batch) == 1:
                _fail(batch, error)
                return
            for entry in batch:
                await self._embed([entry], model)
        else:
            for (_, future), row in zip(batch, rows, strict=True):
                if not future.done():
                    future.set_result(row)

    def _forget(self, entries: Sequence[_Entry]) -> None:
        """Take what is left of a call that has ended out of the queue."""
        for _, future in entries:
            future.cancel()
        if any(future.cancelled() for _, future in entries):
            self._waiting = deque(entry for entry in self._waiting if not entry[1].done())


def _body(pictures: Sequence[Picture], preprocessing: str) -> bytes:
    """In a thread."""
    shrink = _SHRINK.get(preprocessing)
    return wire.pack([shrink(picture) for picture in pictures] if shrink else pictures)


def _fail(entries: Sequence[_Entry], error: Exception) -> None:
    for _, future in entries:
        if not future.done():
            future.set_exception(error)


def _closed() -> Unavailable:
    return Unavailable("The connection to the embedder is not open.")
