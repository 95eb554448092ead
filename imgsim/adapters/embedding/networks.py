"""open_clip's networks, tokenizers and transforms for a checkpoint. Imports open_clip and torch."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from imgsim.adapters.embedding.checkpoints import Checkpoint, find_checkpoint
from imgsim.adapters.embedding.preprocess import middle
from imgsim.core.errors import ModelError
from imgsim.core.models import Picture, Vectors

log = logging.getLogger(__name__)


class Network:
    """A checkpoint with its weights, in float32, ready to infer. ``ModelError`` when they cannot be read."""

    def __init__(self, model: str, checkpoint: Checkpoint) -> None:
        self.model = model
        self.checkpoint = checkpoint
        self.config = open_clip.get_model_config(checkpoint.architecture)
        self.network = _load(model, checkpoint, self.config)
        self.preprocess_config: dict[str, Any] = self.network.visual.preprocess_cfg
        self._preprocess = PreprocessCfg(**self.preprocess_config)
        self._transform = image_transform_v2(self._preprocess, is_train=False)

    @property
    def dimensions(self) -> int:
        with torch.inference_mode():
            return int(self.network.encode_image(torch.zeros(1, *self._preprocess.input_size)).shape[1])

    @property
    def preprocessing(self) -> str:
        _, height, width = self._preprocess.input_size
        digest = hashlib.sha256(json.dumps(self.preprocess_config, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self._preprocess.resize_mode}-{self._preprocess.interpolation}-{width}x{height}-{digest}@1"

    def transform(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """``(n, 3, height, width)``, by open_clip's own transform. ``ValueError`` as ``Preprocess.fit``."""
        crops = self._preprocess.resize_mode == "shortest"
        return torch.stack(
            [self._transform(Image.fromarray(middle(picture) if crops else picture)) for picture in pictures]
        )

    def embed_images(self, pictures: Sequence[Picture]) -> Vectors:
        """``(n, dimensions)``, of any length."""
        with torch.inference_mode():
            return np.asarray(self.network.encode_image(self.transform(pictures)).float().numpy())

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """As ``embed_images``. ``ModelError`` when the tokenizer cannot be loaded."""
        with torch.inference_mode():
            return np.asarray(self.network.encode_text(self._tokenizer(list(texts))).float().numpy())

    def drop_images(self) -> None:
        """Give the memory of the image tower back."""
        self.network.visual = None

    @cached_property
    def _tokenizer(self) -> Callable[[list[str]], Any]:
        tokenizer, reason = load_tokenizer(self.checkpoint, self.config)
        if tokenizer is None:
            raise ModelError(f"The tokenizer of {self.model} cannot be loaded any more: {reason}.")
        return tokenizer


def open_network(model: str, model_id: str) -> Network:
    """The network of `model` for a process that serves: one core for each calling thread.

    ``ModelError`` as ``find_checkpoint`` and ``Network``, and when the weights are not those of `model_id` any
    more: vectors of the one and the other do not compare.
    """
    checkpoint = find_checkpoint(model)
    if checkpoint.model_id() != model_id:
        raise ModelError(f"The weights of {model} are no longer those of {model_id}: restart to change over.")
    torch.set_num_threads(1)  # torch has this only for the whole process
    return Network(model, checkpoint)


def load_tokenizer(checkpoint: Checkpoint, config: Mapping[str, Any]) -> tuple[Callable[..., Any] | None, str]:
    """The tokenizer, or why there is none. Without one the model still embeds images."""
    # Only the tokenizers of the hub take the second one. Its cache comes first: the client repeats for 20 s offline.
    tries: list[dict[str, Any]] = [{}]
    if config["text_cfg"].get("hf_tokenizer_name"):
        tries = [{"local_files_only": True}] if checkpoint.local else [{"local_files_only": True}, {}]
    reason = ""
    for options in tries:
        try:
            return open_clip.get_tokenizer(checkpoint.architecture, **options), ""
        except Exception as error:  # transformers is missing, or a file, or the hub, each with its own error
            reason = str(error).strip().partition("\n")[0][:200]
    return None, reason


def _load(model: str, checkpoint: Checkpoint, config: Mapping[str, Any]) -> Any:
    tower = config["text_cfg"].get("hf_model_name")
    if checkpoint.local and tower and not os.path.isabs(tower):
        raise ModelError(
            f"The text tower of {model} is described by files of the model hub ({tower}), which is not asked while a "
            "file is named: choose a pretrained tag, or an architecture that open_clip describes itself."
        )
    if not checkpoint.local and checkpoint.preprocessing.get("quick_gelu", False) != config.get("quick_gelu", False):
        log.warning(
            "The weights of %s were trained with another activation than %s computes: architectures with and "
            "without -quickgelu in their name differ in nothing else",
            model,
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
        raise ModelError(f"{checkpoint.path} cannot be read as weights of {model}: {str(error)[:300]}") from error
    return network.eval()
