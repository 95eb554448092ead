"""The models that are measured: the packaged one, and architectures of open_clip with random weights."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from anyio.from_thread import start_blocking_portal

from imgsim.adapters.embedding import EMBEDDERS, PACKAGED
from imgsim.adapters.embedding.onnx_cache import ModelCache
from imgsim.adapters.embedding.onnx_int8 import SAMPLE, prepare_int8
from imgsim.adapters.embedding.packaged import WEIGHTS, squash
from imgsim.adapters.images import read_image
from imgsim.core.models import Picture
from imgsim.settings import Embedding, load_settings
from tests.benchmarks.floor import Embed
from tests.benchmarks.photographs import make_photographs

_SMALLEST_SIDE, _SIZE = 448, (640, 480)


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    settings: Mapping[str, str]
    """Of the section ``embedder``."""

    @property
    def environment(self) -> dict[str, str]:
        """Of a server that runs this model."""
        return {f"IMGSIM_EMBEDDER__{key.upper()}": value for key, value in self.settings.items()}

    @contextmanager
    def bare(self) -> Iterator[Embed]:
        """The model alone, without a server around it."""
        if self.name == PACKAGED:
            yield _packaged()
            return
        embedder = EMBEDDERS["local"](load_settings(overrides={"embedder": self.settings}))
        # Through the port, which runs the adapter's own session: its queue takes 0.2 of some 50 ms.
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(embedder):
            yield partial(portal.call, embedder.embed_images)


def open_models(names: str, cache: Path, precision: str) -> list[Model]:
    """By names with commas between: the packaged model, or architectures of open_clip with random weights, which are
    made once below `cache`, and computed in `precision` where these let them."""
    return [_open_model(name, cache, precision) for name in names.split(",")]


def _open_model(name: str, cache: Path, precision: str) -> Model:
    if name == PACKAGED:
        return Model(name, {"model": name})
    weights = cache / f"{name}.pt"
    if not weights.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _make_weights(name, weights)
    settings = {"model": f"{name}/{weights}", "precision": precision}
    if "cache_dir" in Embedding.model_fields:  # what is computed from the weights once, is there for every server
        settings["cache_dir"] = str(cache / "models")
    if precision == "int8":
        _judge_int8(settings)
    return Model(name, settings)


def _judge_int8(settings: Mapping[str, str]) -> None:
    """What a server does by the first pictures that come, so that int8 counts from the first server on."""
    found = (read_image(photo, 10**8, _SMALLEST_SIDE) for photo in make_photographs(SAMPLE, _SIZE))
    pictures = [each.picture for each in found if each]
    verdict = asyncio.run(prepare_int8(settings["model"], ModelCache(Path(settings["cache_dir"])), pictures))
    if not verdict.passed:
        raise SystemExit(f"int8 did not pass the gate: {verdict}")


def _make_weights(architecture: str, file: Path) -> None:
    import open_clip
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.save(open_clip.create_model(architecture).state_dict(), temporary := file.with_suffix(".part"))
    temporary.rename(file)


def _packaged() -> Embed:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(WEIGHTS), options, providers=["CPUExecutionProvider"])

    def embed(pictures: Sequence[Picture]) -> Any:
        values = np.stack([squash(picture) for picture in pictures]).astype(np.float32) / 127.5 - 1
        return session.run(["y"], {"x": np.ascontiguousarray(values.transpose(0, 3, 1, 2))})

    return embed
