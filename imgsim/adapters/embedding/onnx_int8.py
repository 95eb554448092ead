"""An int8 form of an exported model, and the gate that it must pass on pictures of the user's own.

``python -m`` this, the folder of the export, a ``.npy`` file of pixels and, where a verdict that is there does not
count, ``anew``: the child that quantises and judges.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imgsim.adapters.embedding.child import answer, run_child
from imgsim.adapters.embedding.onnx_cache import NETWORK, Found, ModelCache, read_json, sync, write_json
from imgsim.adapters.embedding.onnx_export import exported
from imgsim.adapters.embedding.onnx_session import OnnxTower, open_session
from imgsim.core.errors import ModelError
from imgsim.core.models import Picture, Vectors

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

log = logging.getLogger(__name__)

VERSION = 1
"""Of the quantisation and the gate: a change of either judges anew."""

SAMPLE = 64
"""Pictures that the gate looks at, at most."""

LEAST = 16
"""Distinct pictures without which there is no verdict: the nearest of a few says little."""

COSINE = 0.998
"""The least cosine between the two vectors of a picture."""

TIE = 1 - COSINE
"""Scores closer than what the cosine may lose count as equal: their order says nothing."""

NEAREST = (1, 5)
"""How many of the nearest are compared."""

_ALPHA = 0.5  # SmoothQuant's migration strength: half of the range goes from activations to weights
_SMALLEST = 1e-5
_NICE = 15


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate saw."""

    cosine_min: float
    cosine_mean: float
    neighbours_changed: int
    """Pictures of the sample with another neighbour, by the definition of ``gate``."""
    sample: int

    @property
    def passed(self) -> bool:
        return self.cosine_min >= COSINE and not self.neighbours_changed

    def __str__(self) -> str:
        return (
            f"cosine min {self.cosine_min:.5f} (at least {COSINE}), mean {self.cosine_mean:.5f}, neighbours changed "
            f"for {self.neighbours_changed} of {self.sample} pictures"
        )


def gate(fp32: OnnxTower, int8: OnnxTower, pixels: Picture) -> Verdict:
    """Compare the two on `pixels`, ``(n, height, width, 3)``, one by one.

    A picture's neighbours are changed when, for k of 1 or 5, one of its k nearest by int8 scores in fp32 more
    than ``TIE`` below its k-th nearest by fp32.
    """
    exact, coarse = (_units(np.concatenate([tower.embed(one[None]) for one in pixels])) for tower in (fp32, int8))
    cosines = (exact * coarse).sum(1)
    changed = changed_neighbours(exact @ exact.T, coarse @ coarse.T)
    return Verdict(float(cosines.min()), float(cosines.mean()), int(changed.sum()), len(pixels))


def changed_neighbours(exact: NDArray[np.float32], coarse: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which rows of two ``(n, n)`` tables of scores have other neighbours, as ``gate`` says."""
    changed = np.zeros(len(exact), np.bool_)
    for scores in (exact, coarse):
        np.fill_diagonal(scores, -np.inf)
    for k in NEAREST:
        if k < len(exact):
            least = -np.sort(-exact, axis=1)[:, k - 1] - TIE
            chosen = np.argsort(-coarse, axis=1)[:, :k]
            changed |= (np.take_along_axis(exact, chosen, axis=1) < least[:, None]).any(1)
    return changed


def int8_path(folder: Path) -> Path:
    return folder / f"int8-{VERSION}.onnx"


def verdict_of(found: Found) -> Verdict | None:
    """The verdict that was reached for this export, if any."""
    try:
        verdict = Verdict(**read_json(_verdict_path(found.folder)))
    except (OSError, ValueError, TypeError):
        return None
    return verdict if int8_path(found.folder).is_file() or not verdict.passed else None


def discard(found: Found) -> None:
    """Remove the int8 form and its verdict, so that it is judged anew."""
    for path in (_verdict_path(found.folder), int8_path(found.folder)):
        path.unlink(missing_ok=True)


async def prepare_int8(model: str, cache: ModelCache, pictures: Sequence[Picture]) -> Verdict:
    """Export and quantise `model`, judge int8 by the first ``SAMPLE`` of `pictures`, and keep the verdict.

    It replaces an earlier verdict, and counts from the next start on. ``ModelError`` as ``exported``, for fewer
    than ``LEAST`` distinct pictures, and for a model that no export is exact for.
    """
    found = await exported(model, cache)
    distinct = {pixels.tobytes(): pixels for pixels in map(found.about.preprocess.fit, pictures[:SAMPLE])}
    return await judge(found, list(distinct.values()), anew=True)


async def judge(found: Found, pixels: Sequence[Picture], anew: bool = False) -> Verdict:
    """As ``prepare_int8``, for distinct pictures that are fitted already. In a child of low priority.

    Unless `anew`, a verdict that another process has reached by the time it is this one's turn stays.
    """
    if found.about.way == "torch":
        raise ModelError(f"{found.about.model_id} runs on torch ({found.about.reason}), where int8 is not to be had.")
    if len(pixels) < LEAST:
        raise ModelError(f"int8 is judged by at least {LEAST} distinct pictures; there are {len(pixels)}.")
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.npy"
        np.save(sample, np.stack(pixels))
        what = f"the int8 form of {found.about.model_id}"
        arguments = [str(found.folder), str(sample), *(["anew"] if anew else [])]
        verdict = Verdict(**await run_child(__name__, arguments, what))
    log.info("int8 of %s %s: %s", found.about.model_id, "passed" if verdict.passed else "did not pass", verdict)
    return verdict


def quantise(folder: Path, sample: Path, anew: bool) -> Verdict:
    """Judge the int8 form of the export in `folder`; keep the verdict there, and the form if it passed.

    Unless `anew`, a verdict that is there is given back. ``ModelError`` where the export is gone.
    """
    pixels = np.load(sample)
    cache = ModelCache(folder.parent)
    with cache.exclusive() as made:
        if (found := cache.kept(folder)) is None:
            raise ModelError(f"The export {folder} is gone.")
        if not anew and (verdict := verdict_of(found)):
            return verdict
        smooth(folder / NETWORK, made / "smooth.onnx", pixels)
        _to_int8(made / "smooth.onnx", made / "int8.onnx")
        verdict = gate(OnnxTower(folder / NETWORK), OnnxTower(made / "int8.onnx"), pixels)
        if verdict.passed:
            sync(made / "int8.onnx")
            (made / "int8.onnx").replace(int8_path(folder))
        write_json(_verdict_path(folder), asdict(verdict))
    return verdict


def _to_int8(source: Path, target: Path) -> None:
    """Weights to int8 by channel; activations when they come.

    ``reduce_range`` leaves weights seven bits: products of eight overflow the 16-bit sums of AVX2 (measured
    on ViT-B-32: cosine .987).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it recommends a preparation that changes nothing here
    kinds = ["MatMul", "Gemm"]
    quantize_dynamic(source, target, kinds, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)


def smooth(source: Path, target: Path, pixels: Picture) -> None:
    """SmoothQuant (arXiv:2211.10438, equation 4): give weights a part of the range of what they multiply.

    Each channel between a LayerNormalization and the products that follow is divided by its factor in the one
    and multiplied in the others, so that the model computes the same. `target` may have a file of data beside it.
    """
    import onnx
    from onnx.numpy_helper import from_array, to_array

    model = onnx.load(source)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    pairs = list(_norms_before_products(model, weights))
    maxima = _maxima(model, target.with_name("probe.onnx"), [norm.output[0] for norm, _ in pairs], pixels)
    for norm, products in pairs:
        rows = np.max([np.abs(to_array(weights[product.input[1]])).max(1) for product in products], axis=0)
        factors = np.maximum(maxima[norm.output[0]], _SMALLEST) ** _ALPHA
        factors /= np.maximum(rows, _SMALLEST) ** (1 - _ALPHA)
        changes = [(norm, position, 1 / factors) for position in range(1, len(norm.input))]
        changes += [(product, 1, factors[:, None]) for product in products]
        for node, position, factor in changes:  # a copy each: nodes may share a weight
            changed = (to_array(weights[node.input[position]]) * factor).astype(np.float32)
            node.input[position] = f"{node.output[0]}_smooth_{position}"
            model.graph.initializer.append(from_array(changed, node.input[position]))
    used = {name for node in model.graph.node for name in node.input}
    left = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(left)
    _save(model, target)


def _norms_before_products(
    model: "ModelProto", weights: Mapping[str, Any]
) -> Iterator[tuple["NodeProto", list["NodeProto"]]]:
    """Each normalisation whose result goes to products with weights alone, and these."""
    for norm in model.graph.node:
        if norm.op_type == "LayerNormalization":
            name = norm.output[0]
            following = [node for node in model.graph.node if name in node.input]
            if following and all(
                node.op_type == "MatMul" and node.input[0] == name and node.input[1] in weights for node in following
            ):
                yield norm, following


def _maxima(model: "ModelProto", probe: Path, names: Sequence[str], pixels: Picture) -> dict[str, NDArray[np.float32]]:
    """The largest magnitude of each channel of the values `names`, over all of `pixels`."""
    import onnx

    if not names:
        return {}
    probing = onnx.ModelProto()
    probing.CopyFrom(model)
    probing.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    _save(probing, probe)
    del probing
    session = open_session(probe)
    found = dict.fromkeys(names, np.zeros(1, np.float32))
    for one in pixels:
        values = session.run(list(names), {session.get_inputs()[0].name: one[None]})
        for name, value in zip(names, values, strict=True):
            found[name] = np.maximum(found[name], np.abs(value).reshape(-1, value.shape[-1]).max(0))
    return found


def _save(model: "ModelProto", path: Path) -> None:
    """With the weights in a file of their own: one of Protocol Buffers ends at 2 GB."""
    import onnx

    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")


def _units(rows: Vectors) -> Vectors:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _verdict_path(folder: Path) -> Path:
    return folder / f"int8-{VERSION}.json"


def _main(folder: str, sample: str, anew: str = "") -> Mapping[str, Any]:
    if hasattr(os, "nice"):
        os.nice(_NICE)
    return asdict(quantise(Path(folder), Path(sample), bool(anew)))


if __name__ == "__main__":
    answer(lambda: _main(*sys.argv[1:]))
