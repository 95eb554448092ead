"""Any open_clip model, in this process on the CPU: its image tower on ONNX Runtime, from an export made once."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from imgsim.adapters.batcher import Batcher
from imgsim.adapters.embedding.checks import check_pictures, text_not_supported, unit_rows
from imgsim.adapters.embedding.int8_trial import Int8Trial
from imgsim.adapters.embedding.onnx_cache import Found, ModelCache
from imgsim.adapters.embedding.onnx_export import exported
from imgsim.adapters.embedding.onnx_int8 import discard, int8_path, verdict_of
from imgsim.adapters.embedding.onnx_session import OnnxTower
from imgsim.adapters.embedding.preprocess import Preprocess
from imgsim.adapters.embedding.wire import INT8
from imgsim.core.errors import EmbeddingFailed, ModelError, Unavailable
from imgsim.core.models import Picture, Vector, Vectors

if TYPE_CHECKING:  # imports torch
    from imgsim.adapters.embedding.networks import Network

log = logging.getLogger(__name__)


class OpenClipEmbedder:
    """The model ``ARCHITECTURE/PRETRAINED_TAG``, ``ARCHITECTURE/FILE`` or ``local-dir:FOLDER``.

    The image tower is exported to ONNX at the first start, in a child process, and kept below `cache_dir`:
    torch is not imported here. The exceptions: a tower that no export is exact for runs on torch, and the first
    text loads torch, open_clip and the text tower, in the thread of the texts (seconds, and about 1 GB for
    ViT-B-32), so that a process for pictures alone never holds them.

    `threads` Python threads (0: one for each usable core) each compute batches of at most `batch` pictures on
    one core; at most `queue` wait. Texts have a thread of their own and do not queue behind pictures.

    `precision` ``fp32``, or ``int8`` or ``auto``: int8 computes where it has passed the gate of ``onnx_int8`` on
    the user's pictures. Without a verdict fp32 computes, and the pictures that come are the sample for one that
    counts from the next start on. ``int8`` and ``auto`` differ in that ``int8`` warns where int8 is refused.
    """

    def __init__(
        self, model: str, threads: int, batch: int, queue: int, cache_dir: Path, precision: str = "fp32"
    ) -> None:
        self._name = model
        self._threads = threads
        self._batch = batch
        self._queue = queue
        self._cache = ModelCache(cache_dir)
        self._precision = precision
        self._trial: Int8Trial | None = None
        self._model: Found | None = None

    async def __aenter__(self) -> Self:
        """``ModelError`` when the extra, the architecture, the tag or the file is missing, or does not fit."""
        found, tower, self._int8 = await _open(self._name, self._cache, self._precision)
        network: Network | None = None
        if tower is None:
            network = await asyncio.to_thread(_open_network, self._name, found.about.model_id)
            embed: Callable[[Sequence[Picture]], Vectors] = network.embed_images
        else:
            if self._precision != "fp32" and verdict_of(found) is None:
                self._trial = Int8Trial(found)
            # int8 chooses the range of activations by what it computes at once: one by one, or a vector would
            # depend on the pictures beside it.
            batch = 1 if self._int8 else self._batch
            embed = partial(_embed_pixels, tower, found.about.preprocess, batch, self._trial)
        self._pictures: Batcher[Picture, Vector] = Batcher(
            partial(_run_pictures, embed, found.about.model_id),
            self._threads,
            self._batch,
            self._queue,
            "embedding model",
        )
        texts = _Texts(self._name, found.about.model_id, network)
        self._texts: Batcher[str, Vector] = Batcher(texts.run, 1, self._batch, self._queue, "text model")
        self._model = found
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._model:
            await asyncio.gather(self._pictures.close(), self._texts.close())
        if self._trial:
            await self._trial.close()

    async def ping(self) -> None:
        self._opened()

    @property
    def model_id(self) -> str:
        return self._opened().about.model_id

    @property
    def preprocessing(self) -> str:
        """With ``+int8`` at its end where int8 computes.

        The collection of vectors is named by ``model_id`` alone, so that int8 goes on in the one that fp32 began: by
        the gate, the two find the same neighbours there. The embedding cache is keyed by this as well, and so gives
        out no int8 vector as one of fp32 while the model runs in its user's process. Towards an embedder process the
        ending does not count (``RemoteEmbedder.preprocessing``).
        """
        return self._opened().about.preprocessing + (INT8 if self._int8 else "")

    @property
    def dimensions(self) -> int:
        return self._opened().about.dimensions

    @property
    def input_size(self) -> int:
        preprocess = self._opened().about.preprocess
        return max(preprocess.width, preprocess.height)

    @property
    def supports_text(self) -> bool:
        return not self._opened().no_text_reason

    async def embed_images(self, pictures: Sequence[Picture], urgent: bool = False) -> Vectors:
        opened = self._opened()
        check_pictures(pictures)
        if not pictures:
            return np.empty((0, opened.about.dimensions), np.float32)
        return np.stack(await self._pictures.submit(pictures, urgent))

    async def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """As the port says; the first call waits until the text tower is loaded."""
        opened = self._opened()
        if opened.no_text_reason:
            raise text_not_supported(opened.about.model_id, opened.no_text_reason)
        if not texts:
            return np.empty((0, opened.about.dimensions), np.float32)
        return np.stack(await self._texts.submit(texts))

    def _opened(self) -> Found:
        if self._model is None:
            raise Unavailable("The embedding model is not open yet.")
        return self._model


class _Texts:
    """Texts to vectors, in one thread: `network` or, where it is None, one that the first text loads."""

    def __init__(self, model: str, model_id: str, network: "Network | None") -> None:
        self._model = model
        self._model_id = model_id
        self._network = network

    def run(self, texts: Sequence[str]) -> list[Vector]:
        if self._network is None:
            self._network = _open_network(self._model, self._model_id)
            self._network.drop_images()
        return list(unit_rows(self._network.embed_texts(texts), self._model_id))


def _run_pictures(
    embed: Callable[[Sequence[Picture]], Vectors], model_id: str, pictures: Sequence[Picture]
) -> list[Vector]:
    try:
        rows = embed(pictures)
    except ValueError as error:  # Pillow's, for a side that would shrink to nothing
        raise EmbeddingFailed(f"The model {model_id} cannot take this picture: {error}.") from error
    return list(unit_rows(rows, model_id))


def _embed_pixels(
    tower: OnnxTower, preprocess: Preprocess, batch: int, trial: Int8Trial | None, pictures: Sequence[Picture]
) -> Vectors:
    """In an inference thread: preprocessing included, which so needs no threads of its own."""
    pixels = np.empty((len(pictures), preprocess.height, preprocess.width, 3), np.uint8)
    for place, picture in zip(pixels, pictures, strict=True):
        place[:] = preprocess.fit(picture)
        if trial:
            trial.see(place)
    return np.concatenate([tower.embed(pixels[start : start + batch]) for start in range(0, len(pixels), batch)])


async def _open(model: str, cache: ModelCache, precision: str) -> tuple[Found, OnnxTower | None, bool]:
    """`model`, its export (None where it runs on torch), and whether that is the int8 form.

    An export that cannot be read is made anew, once.
    """
    found = await exported(model, cache)
    if found.about.way == "torch":
        if precision == "int8":
            log.warning("%s runs on torch in fp32: %s", found.about.model_id, found.about.reason)
        return found, None, False
    if tower := await asyncio.to_thread(_open_int8, found, precision):
        return found, tower, True
    try:
        return found, await asyncio.to_thread(OnnxTower, found.network), False
    except Exception as error:  # ONNX Runtime's errors have no common class but this
        log.warning("The export %s cannot be read, and is made anew: %s", found.network, error)
    cache.forget(found)
    found = await exported(model, cache)
    try:
        return found, await asyncio.to_thread(OnnxTower, found.network), False
    except Exception as error:
        raise ModelError(f"The export {found.network} cannot be read: {error}") from error


def _open_int8(found: Found, precision: str) -> OnnxTower | None:
    """The int8 form where `precision` asks for it and the gate lets it."""
    verdict = None if precision == "fp32" else verdict_of(found)
    if verdict is None:
        return None
    if not verdict.passed:
        level = logging.WARNING if precision == "int8" else logging.INFO
        log.log(level, "%s runs in fp32: int8 did not pass the gate: %s", found.about.model_id, verdict)
        return None
    try:
        tower = OnnxTower(int8_path(found.folder))
    except Exception as error:  # ONNX Runtime's errors have no common class but this
        log.warning("The int8 form of %s cannot be read, and is made anew: %s", found.about.model_id, error)
        discard(found)
        return None
    log.info("%s runs in int8, which passed the gate: %s", found.about.model_id, verdict)
    return tower


def _open_network(model: str, model_id: str) -> "Network":
    from imgsim.adapters.embedding.networks import open_network

    return open_network(model, model_id)
