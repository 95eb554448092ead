"""The packaged model, EfficientNet-Lite0 on ONNX Runtime: no torch, no download. See ``weights/README.md``."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from imgsim.adapters.batcher import Batcher
from imgsim.adapters.embedding import PACKAGED
from imgsim.adapters.embedding.checks import check_pictures, text_not_supported, unit_rows
from imgsim.adapters.embedding.onnx_session import open_session
from imgsim.core.errors import ModelError, Unavailable
from imgsim.core.models import Picture, Vector, Vectors
from imgsim.resize import resize

WEIGHTS = Path(__file__).parent / "weights" / "efficientnet_lite0.onnx"
SIZE = 224


class PackagedEmbedder:
    """EfficientNet-Lite0, the average over its last feature map, 1280 dimensions.

    One ONNX Runtime session that computes on the calling thread only, called from `threads` Python
    threads (0: one for each usable core): the layout with the best throughput, and the one that a busy
    neighbour does not break. Pictures are computed one by one, not in batches: the feature maps of one
    stay in the core's cache (the model alone on 2 cores, pictures/s by batch: 1: 173, 2: 168, 4: 152, 8: 141), and the
    vector of a picture cannot depend on its neighbours. At most `queue` pictures wait.
    """

    model_id = f"{PACKAGED}@1"
    preprocessing = f"squash-bicubic-{SIZE}@2"
    dimensions = 1280
    input_size = SIZE
    supports_text = False

    def __init__(self, threads: int, queue: int) -> None:
        self._threads = threads
        self._queue = queue
        self._batcher: Batcher[Picture, Vector] | None = None

    async def __aenter__(self) -> Self:
        """``ModelError`` when the weights cannot be read."""
        try:
            self._session = await asyncio.to_thread(open_session, WEIGHTS)
        except Exception as error:  # ONNX Runtime's errors have no common class but this
            raise ModelError(f"The packaged weights {WEIGHTS} cannot be read: {error}") from error
        self._batcher = Batcher(self._run, self._threads, 1, self._queue, "embedding model")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._batcher:
            await self._batcher.close()

    async def ping(self) -> None:
        self._opened()

    async def embed_images(self, pictures: Sequence[Picture], urgent: bool = False) -> Vectors:
        batcher = self._opened()
        check_pictures(pictures)
        if not pictures:
            return np.empty((0, self.dimensions), np.float32)
        return np.stack(await batcher.submit(pictures, urgent))

    async def embed_texts(self, texts: Sequence[str]) -> Vectors:
        raise text_not_supported(self.model_id)

    def _opened(self) -> Batcher[Picture, Vector]:
        if self._batcher is None:
            raise Unavailable("The embedding model is not open yet.")
        return self._batcher

    def _run(self, pictures: Sequence[Picture]) -> list[Vector]:
        """In an inference thread: preprocessing included, which so needs no threads of its own."""
        return [self._embed(picture) for picture in pictures]

    def _embed(self, picture: Picture) -> Vector:
        (rows,) = self._session.run(["y"], {"x": preprocess(picture)})
        vector: Vector = unit_rows(rows, self.model_id)[0]
        return vector


def preprocess(picture: Picture) -> NDArray[np.float32]:
    """``(1, 3, 224, 224)`` float32 in [-1, 1], as ``weights/README.md`` says: squashed, bicubic, antialiased."""
    small = squash(picture)
    pixels = np.empty((1, 3, SIZE, SIZE), np.float32)
    np.divide(small.transpose(2, 0, 1), np.float32(127.5), out=pixels[0])
    pixels -= 1
    return pixels


def squash(picture: Picture) -> Picture:
    """``(224, 224, 3)`` uint8, the first step of ``preprocess``. What comes out of it, it leaves as it is."""
    return resize(picture, SIZE, SIZE)
