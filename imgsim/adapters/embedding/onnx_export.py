"""Export of an image tower to ONNX, in a process of its own: ``python -m`` this, the model, the cache's folder.

Three ways, tried in this order until one is exact: ``plain`` (open_clip's vision transformer, written for
ONNX Runtime), ``stock`` (any tower as it is), ``torch`` (no export: the model runs as open_clip has it).
"""

import logging
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from imgsim.adapters.embedding.child import answer, run_child
from imgsim.adapters.embedding.onnx_cache import NETWORK, About, Found, ModelCache
from imgsim.adapters.embedding.onnx_session import OnnxTower, simplify
from imgsim.adapters.embedding.preprocess import Preprocess
from imgsim.core.errors import ModelError
from imgsim.core.models import Picture, Vectors

if TYPE_CHECKING:  # imports torch
    from imgsim.adapters.embedding.networks import Network

log = logging.getLogger(__name__)

EXACT = 1e-4
"""The largest difference of a component, of vectors of unit length, with which an export counts as exact."""

_OPSET = 17  # the first with LayerNormalization
_SHAPES = [(480, 640), (640, 480), (299, 97), (61, 53)]


async def exported(model: str, cache: ModelCache) -> Found:
    """`model` as the cache has it, after an export in a child process where it has none yet.

    A model without a tokenizer is looked at again each time: it may have one by now. ``ModelError`` when the
    extra, the architecture, the tag or the file is missing, or does not fit.
    """
    if found := cache.find(model):
        return found
    result = await run_child(__name__, [model, str(cache.folder)], f"the export of {model}")
    found = cache.kept(cache.folder / result["folder"])
    if found is None:
        raise ModelError(f"The export of {model} in {cache.folder} is gone as soon as it was made.")
    return Found(found.folder, found.about, result["no_text_reason"])


def export(model: str, cache: ModelCache) -> Found:
    """As ``exported``, in this process, with torch."""
    with cache.exclusive() as made:
        if found := cache.find(model):  # the one who was waited for has made it
            return found
        try:
            from imgsim.adapters.embedding.checkpoints import find_checkpoint
            from imgsim.adapters.embedding.networks import Network, load_tokenizer
        except ImportError as error:
            raise ModelError(
                f"The model {model} needs open_clip and torch: pip install 'imgsim[clip]' ({error})."
            ) from error
        checkpoint = find_checkpoint(model)
        seconds = 10 + checkpoint.path.stat().st_size // 50_000_000
        log.info("exporting %s to ONNX once, about %d s", model, seconds)
        network = Network(model, checkpoint)
        tokenizer, reason = load_tokenizer(checkpoint, network.config)
        config = {"model": network.config, "preprocess": network.preprocess_config}
        folder = cache.folder_of(checkpoint.model_id(), config)
        if (found := cache.kept(folder)) is None:
            about = _about(checkpoint.model_id(), network, made)
            cache.keep(folder, about, made)
            found = Found(folder, about)
        if tokenizer:
            cache.point(model, found, checkpoint.files)
        else:
            log.warning("The model %s embeds pictures only: its tokenizer cannot be loaded (%s)", model, reason)
            found = Found(folder, found.about, f"has no tokenizer here ({reason})")
        return found


def _about(model_id: str, network: "Network", made: Path) -> About:
    """Export to `made`, and say what came of it."""
    started = time.monotonic()
    preprocess = Preprocess.of(network.preprocess_config)
    way, against = _choose(network, preprocess, made)
    runs = "runs on torch: no export of it is exact" if way == "torch" else f"runs on ONNX Runtime, by the {way} export"
    log.info("%s %s (%.0f s%s)", model_id, runs, time.monotonic() - started, f"; {against}" if against else "")
    return About(model_id, network.preprocessing, network.dimensions, preprocess, way, against)


def _choose(network: "Network", preprocess: Preprocess, made: Path) -> tuple[str, str]:
    """The first way that is exact, and what is against those before it."""
    from imgsim.adapters.embedding.plain_vit import PlainVit, StockTower, why_not_plain

    pictures = _pictures()
    if reason := _why_not_pixels(network, preprocess, pictures):
        return "torch", reason
    pixels = np.stack([preprocess.fit(picture) for picture in pictures])
    expected = _units(network.embed_images(pictures))
    visual = network.network.visual
    attempts: Mapping[str, Callable[[], str]] = {
        "plain": lambda: why_not_plain(visual) or _try(PlainVit(visual, preprocess), made, pixels, expected),
        "stock": lambda: _try(StockTower(network.network, preprocess), made, pixels, expected),
    }
    against: list[str] = []
    for way, attempt in attempts.items():
        reason = attempt()
        if not reason:
            return way, "; ".join(against)
        against.append(f"{way}: {reason}")
    _empty(made)
    return "torch", "; ".join(against)


def _try(tower: Any, made: Path, pixels: Picture, expected: Vectors) -> str:
    """Export `tower` to `made`; why what came of it is not usable, or empty.

    ``ModelError`` for what passes, such as a full disk: it is no verdict on the tower, and nothing is kept of it.
    """
    import torch

    # The exporter knows the steps of attention, but not torch's fused kernel for them.
    torch.backends.mha.set_fastpath_enabled(False)
    _empty(made)
    traced = made / "traced"  # a folder: weights above 2 GB come as many files
    traced.mkdir()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this exporter is the older one, and that shapes are constants
            torch.onnx.export(
                tower.eval(),
                (torch.from_numpy(pixels[:2]),),
                str(traced / NETWORK),
                input_names=["pixels"],
                output_names=["rows"],
                dynamic_axes={"pixels": {0: "pictures"}, "rows": {0: "pictures"}},
                opset_version=_OPSET,
                dynamo=False,  # the other exporter needs a library more, and takes longer
            )
        simplify(traced / NETWORK, made / NETWORK)
        shutil.rmtree(traced)
        onnx = OnnxTower(made / NETWORK)
        rows = np.concatenate([onnx.embed(pixels[:1]), onnx.embed(pixels[1:])])
    except Exception as error:  # the exporter and ONNX Runtime have no common class for what they cannot do
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
        if _passes(error, reason):
            raise ModelError(f"The export to ONNX failed, and is tried again at the next start: {reason}") from error
        return reason
    difference = float(np.abs(_units(rows) - expected).max())
    return "" if difference <= EXACT else f"its vectors differ by {difference:.1e}, more than {EXACT:.0e}"


def _passes(error: Exception, reason: str) -> bool:
    """Whether this is about the machine (its disk, its memory, what is installed) and not about the tower."""
    kinds = OSError, MemoryError, ImportError
    # torch hides a missing library behind an error of its exporter, and like ONNX Runtime has no class of its own
    # for memory: "can't allocate memory", "Failed to allocate memory", "bad_alloc".
    return isinstance(error, kinds) or isinstance(error.__cause__, kinds) or "alloc" in reason


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _why_not_pixels(network: "Network", preprocess: Preprocess, pictures: list[Picture]) -> str:
    """Why ``Preprocess`` does not do to pictures what open_clip's transform does; empty where it does."""
    mean, std = np.array(preprocess.mean, np.float32), np.array(preprocess.std, np.float32)
    own = np.stack([(preprocess.fit(picture) / np.float32(255) - mean) / std for picture in pictures])
    difference = float(np.abs(own.transpose(0, 3, 1, 2) - network.transform(pictures).numpy()).max())
    return "" if difference <= EXACT else f"its preprocessing differs by {difference:.1e}"


def _pictures() -> list[Picture]:
    """Seeded random pictures of several shapes, smooth enough to be unlike each other at any size."""
    random = np.random.default_rng(1)
    small = [Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in _SHAPES]
    sized = zip(small, _SHAPES, strict=True)
    return [np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)) for image, (height, width) in sized]


def _units(rows: Vectors) -> Vectors:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _main(model: str, folder: str) -> Mapping[str, Any]:
    found = export(model, ModelCache(Path(folder)))
    return {"folder": found.folder.name, "no_text_reason": found.no_text_reason}


if __name__ == "__main__":
    answer(lambda: _main(*sys.argv[1:]))
