"""Any open_clip model, in this process on the CPU. torch and open_clip are imported when it opens."""

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from imgsim.adapters.batcher import Batcher
from imgsim.adapters.embedding.checks import check_pictures, text_not_supported, unit_rows
from imgsim.core.errors import EmbeddingFailed, ModelError, Unavailable
from imgsim.core.models import Picture, Vector, Vectors

if TYPE_CHECKING:  # imports open_clip
    from imgsim.adapters.embedding.checkpoints import Checkpoint

log = logging.getLogger(__name__)

LONGEST = 16
"""Sides in a ratio above this are cut to it around the middle, which is all that a centre crop sees.

open_clip resizes the shorter side first, and so would make 13 GB out of a picture of 1 x 65,535 pixels.
"""


@dataclass(frozen=True, slots=True)
class _Model:
    """A loaded model and what there is to say about it."""

    model_id: str
    preprocessing: str
    dimensions: int
    input_size: int
    crops: bool
    network: Any
    transform: Callable[[Image.Image], Any]
    tokenizer: Callable[[list[str]], Any] | None
    no_text_reason: str


class OpenClipEmbedder:
    """The model ``ARCHITECTURE/PRETRAINED_TAG``, ``ARCHITECTURE/FILE`` or ``local-dir:FOLDER``, in float32.

    `threads` Python threads (0: one for each usable core) each compute batches of at most `batch`
    pictures; at most `queue` wait. Within a thread torch computes on one core: measured in turns on 2 busy
    cores with ViT-B-32, that was ahead of one Python thread with two of torch's for single pictures (9
    against 4 pictures/s, medians) and level with it for batches of 4 (12 and 11.5) and of 8. Texts have a
    thread of their own and do not queue behind pictures.
    """

    def __init__(self, model: str, threads: int, batch: int, queue: int) -> None:
        self._name = model
        self._threads = threads
        self._batch = batch
        self._queue = queue
        self._loaded: _Model | None = None

    async def __aenter__(self) -> Self:
        """``ModelError`` when the extra, the architecture, the tag or the file is missing, or does not fit."""
        self._loaded = loaded = await asyncio.to_thread(_load, self._name)
        self._pictures: Batcher[Picture, Vector] = Batcher(
            partial(_run_pictures, loaded), self._threads, self._batch, self._queue, "embedding model"
        )
        self._texts: Batcher[str, Vector] = Batcher(
            partial(_run_texts, loaded), 1, self._batch, self._queue, "text model"
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loaded:
            await asyncio.gather(self._pictures.close(), self._texts.close())

    async def ping(self) -> None:
        self._opened()

    @property
    def model_id(self) -> str:
        return self._opened().model_id

    @property
    def preprocessing(self) -> str:
        return self._opened().preprocessing

    @property
    def dimensions(self) -> int:
        return self._opened().dimensions

    @property
    def input_size(self) -> int:
        return self._opened().input_size

    @property
    def supports_text(self) -> bool:
        return self._opened().tokenizer is not None

    async def embed_images(self, pictures: Sequence[Picture]) -> Vectors:
        loaded = self._opened()
        check_pictures(pictures)
        if not pictures:
            return np.empty((0, loaded.dimensions), np.float32)
        return np.stack(await self._pictures.submit(pictures))

    async def embed_texts(self, texts: Sequence[str]) -> Vectors:
        loaded = self._opened()
        if loaded.tokenizer is None:
            raise text_not_supported(loaded.model_id, loaded.no_text_reason)
        if not texts:
            return np.empty((0, loaded.dimensions), np.float32)
        return np.stack(await self._texts.submit(texts))

    def _opened(self) -> _Model:
        if self._loaded is None:
            raise Unavailable("The embedding model is not open yet.")
        return self._loaded


def _run_pictures(loaded: _Model, pictures: Sequence[Picture]) -> list[Vector]:
    import torch

    try:
        images = [
            loaded.transform(Image.fromarray(_middle(picture) if loaded.crops else picture)) for picture in pictures
        ]
    except ValueError as error:  # Pillow's, for a side that would shrink to nothing
        raise EmbeddingFailed(f"The model {loaded.model_id} cannot take this picture: {error}.") from error
    with torch.inference_mode():
        rows = loaded.network.encode_image(torch.stack(images)).float().numpy()
    return list(unit_rows(rows, loaded.model_id))


def _run_texts(loaded: _Model, texts: Sequence[str]) -> list[Vector]:
    import torch

    assert loaded.tokenizer is not None
    with torch.inference_mode():
        rows = loaded.network.encode_text(loaded.tokenizer(list(texts))).float().numpy()
    return list(unit_rows(rows, loaded.model_id))


def _middle(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    limit = LONGEST * min(height, width)
    top, left = max(0, height - limit) // 2, max(0, width - limit) // 2
    return picture[top : top + limit, left : left + limit]


def _load(name: str) -> _Model:
    """Find, read and try the model; in a thread, as the imports alone take seconds."""
    try:
        import open_clip
        import torch
        from open_clip.transform import PreprocessCfg, image_transform_v2

        from imgsim.adapters.embedding.checkpoints import find_checkpoint
    except ImportError as error:
        raise ModelError(
            f"The model {name} needs open_clip and torch: pip install 'imgsim[clip]' ({error})."
        ) from error
    checkpoint = find_checkpoint(name)
    config = open_clip.get_model_config(checkpoint.architecture)
    # One core for each calling thread, as the class says. torch has this only for the whole process.
    torch.set_num_threads(1)
    network = _load_network(name, checkpoint, config)
    preprocess = PreprocessCfg(**network.visual.preprocess_cfg)
    digest = hashlib.sha256(json.dumps(network.visual.preprocess_cfg, sort_keys=True).encode()).hexdigest()[:8]
    _, height, width = preprocess.input_size
    tokenizer, reason = _load_tokenizer(checkpoint.architecture, config, checkpoint.local)
    with torch.inference_mode():
        dimensions = network.encode_image(torch.zeros(1, *preprocess.input_size)).shape[1]
    return _Model(
        model_id=checkpoint.model_id(),
        preprocessing=f"{preprocess.resize_mode}-{preprocess.interpolation}-{width}x{height}-{digest}@1",
        dimensions=dimensions,
        input_size=max(width, height),
        crops=preprocess.resize_mode == "shortest",
        network=network,
        transform=image_transform_v2(preprocess, is_train=False),
        tokenizer=tokenizer,
        no_text_reason=reason,
    )


def _load_network(name: str, checkpoint: "Checkpoint", config: Mapping[str, Any]) -> Any:
    """The network with its weights, in float32, ready to infer."""
    import open_clip

    tower = config["text_cfg"].get("hf_model_name")
    if checkpoint.local and tower and not os.path.isabs(tower):
        raise ModelError(
            f"The text tower of {name} is described by files of the model hub ({tower}), which is not asked while a "
            "file is named: choose a pretrained tag, or an architecture that open_clip describes itself."
        )
    if not checkpoint.local and checkpoint.preprocessing.get("quick_gelu", False) != config.get("quick_gelu", False):
        log.warning(
            "The weights of %s were trained with another activation than %s computes: architectures with and "
            "without -quickgelu in their name differ in nothing else",
            name,
            checkpoint.architecture,
        )
    try:
        network = open_clip.create_model(
            checkpoint.architecture,
            pretrained=None if checkpoint.architecture.startswith("local-dir:") else str(checkpoint.path),
            force_preprocess_cfg=dict(checkpoint.preprocessing),
            require_pretrained=True,
        )
    except Exception as error:  # torch, pickle and safetensors each have their own
        raise ModelError(f"{checkpoint.path} cannot be read as weights of {name}: {str(error)[:300]}") from error
    return network.eval()


def _load_tokenizer(architecture: str, config: Mapping[str, Any], local: bool) -> tuple[Callable[..., Any] | None, str]:
    """The tokenizer, or why there is none. Without one the model still embeds images."""
    import open_clip

    # Only the tokenizers of the hub take the second one. Its cache comes first: the client repeats for 20 s offline.
    tries: list[dict[str, Any]] = [{}]
    if config["text_cfg"].get("hf_tokenizer_name"):
        tries = [{"local_files_only": True}] if local else [{"local_files_only": True}, {}]
    reason = ""
    for options in tries:
        try:
            return open_clip.get_tokenizer(architecture, **options), ""
        except Exception as error:  # transformers is missing, or a file, or the hub, each with its own error
            reason = str(error).strip().partition("\n")[0][:200]
    log.warning("The model %s embeds pictures only: its tokenizer cannot be loaded (%s)", architecture, reason)
    return None, f"has no tokenizer here ({reason})"
