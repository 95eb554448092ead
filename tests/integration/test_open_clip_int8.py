"""int8 of open_clip models: what it computes, the gate before it, and when it is used."""

import asyncio
import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from imgsim.adapters.embedding.onnx_cache import Found, ModelCache
from imgsim.adapters.embedding.onnx_export import export
from imgsim.adapters.embedding.onnx_int8 import (
    LEAST,
    SAMPLE,
    Verdict,
    changed_neighbours,
    gate,
    int8_path,
    judge,
    prepare_int8,
    smooth,
    verdict_of,
)
from imgsim.adapters.embedding.onnx_session import OnnxTower
from imgsim.adapters.embedding.open_clip import OpenClipEmbedder
from imgsim.core.errors import ModelError
from imgsim.core.models import Picture

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

DATA = Path(__file__).parents[1] / "data" / "classes"
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 64, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model, with channels that some layers follow with a hundred times the magnitude of others."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("open_clip") / "small"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        weights = open_clip.create_model(f"local-dir:{folder}", load_weights=False).state_dict()
    for name, tensor in weights.items():
        if name.startswith("visual.transformer") and name.endswith(("ln_1.weight", "ln_2.weight")):
            tensor[::16] *= 100
        if name.endswith(("attn.in_proj_weight", "c_fc.weight")):
            tensor[:, ::16] /= 100
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture
def found(model: str, tmp_path: Path) -> Found:
    return export(model, ModelCache(tmp_path / "exports"))


@pytest.fixture(scope="module")
def photographs() -> list[Picture]:
    paths = sorted(DATA.glob("*/*.jpg"))[:SAMPLE]
    assert len(paths) == SAMPLE
    return [np.array(Image.open(path).convert("RGB")) for path in paths]


@pytest.fixture(scope="module")
def pixels(model: str, photographs: list[Picture], tmp_path_factory: pytest.TempPathFactory) -> Picture:
    preprocess = export(model, ModelCache(tmp_path_factory.mktemp("exports"))).about.preprocess
    return np.stack([preprocess.fit(photograph) for photograph in photographs])


def opened(model: str, found: Found, precision: str) -> OpenClipEmbedder:
    return OpenClipEmbedder(model, 2, 4, 1000, found.folder.parent, precision)


async def a_verdict(found: Found) -> Verdict:
    async with asyncio.timeout(60):
        while (verdict := verdict_of(found)) is None:  # noqa: ASYNC110 another process reaches it
            await asyncio.sleep(0.1)
    return verdict


def test_smoothing_changes_the_ranges_and_not_the_vectors(found: Found, pixels: Picture, tmp_path: Path) -> None:
    smooth(found.network, tmp_path / "smooth.onnx", pixels)
    before, after = OnnxTower(found.network).embed(pixels), OnnxTower(tmp_path / "smooth.onnx").embed(pixels)
    assert_allclose(after, before, atol=1e-4 * np.abs(before).max())
    changed = [node.input[1] for node in onnx.load(tmp_path / "smooth.onnx").graph.node if node.op_type == "MatMul"]
    # Of each block the attention's weights (in the last one, those of the class token apart) and the first of its MLP.
    assert len([name for name in changed if "smooth" in name]) == 2 * 3 + 1


async def test_int8_passes_and_takes_the_place_of_fp32(
    model: str, found: Found, photographs: list[Picture], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        verdict = await prepare_int8(model, ModelCache(found.folder.parent), photographs)
        assert verdict == verdict_of(found)
        assert (verdict.passed, verdict.sample, verdict.neighbours_changed) == (True, SAMPLE, 0)
        assert 0.998 <= verdict.cosine_min <= verdict.cosine_mean < 1
        assert f"passed: {verdict}" in caplog.text
        async with opened(model, found, "fp32") as exact, opened(model, found, "int8") as coarse:
            assert coarse.model_id == exact.model_id
            assert coarse.preprocessing == f"{exact.preprocessing}+int8"
            expected = await exact.embed_images(photographs)
            vectors = await coarse.embed_images(photographs)
            alone = [(await coarse.embed_images([photograph]))[0] for photograph in photographs[:5]]
        assert f"runs in int8, which passed the gate: {verdict}" in caplog.text
    assert_allclose(np.min((expected * vectors).sum(1)), verdict.cosine_min, atol=1e-5)
    assert_allclose(vectors[:5], alone, atol=1e-6)  # whatever is computed beside it


async def test_smoothing_is_what_lets_it_pass(
    model: str,
    found: Found,
    photographs: list[Picture],
    pixels: Picture,
    tmp_path: Path,
) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(found.network, tmp_path / "rough.onnx", ["MatMul", "Gemm"], per_channel=True, reduce_range=True)
    rough = gate(OnnxTower(found.network), OnnxTower(tmp_path / "rough.onnx"), pixels)
    verdict = await prepare_int8(model, ModelCache(found.folder.parent), photographs)
    assert 1 - verdict.cosine_min < (1 - rough.cosine_min) / 2


@pytest.mark.parametrize("precision", ["int8", "auto"])
async def test_where_the_gate_says_no_fp32_computes(
    precision: str, model: str, found: Found, photographs: list[Picture], caplog: pytest.LogCaptureFixture
) -> None:
    refused = Verdict(0.97, 0.99, 3, SAMPLE)
    (found.folder / "int8-1.json").write_text(json.dumps(asdict(refused)))
    assert verdict_of(found) == refused
    with caplog.at_level(logging.INFO):
        async with opened(model, found, "fp32") as exact, opened(model, found, precision) as embedder:
            assert embedder.preprocessing == exact.preprocessing
            assert_allclose(
                await embedder.embed_images(photographs[:3]), await exact.embed_images(photographs[:3]), atol=1e-6
            )
    (record,) = [record for record in caplog.records if "did not pass the gate" in record.getMessage()]
    assert record.levelno == (logging.WARNING if precision == "int8" else logging.INFO)
    assert "cosine min 0.97000 (at least 0.998)" in record.getMessage()
    assert "neighbours changed for 3 of 64" in record.getMessage()


async def test_auto_judges_by_the_pictures_it_is_given(model: str, found: Found, photographs: list[Picture]) -> None:
    async with opened(model, found, "auto") as embedder:
        preprocessing = embedder.preprocessing
        await embedder.embed_images(photographs[:-1] + photographs[:5])  # one short of a sample
        assert verdict_of(found) is None
        await embedder.embed_images(photographs[-1:])
        verdict = await a_verdict(found)
        assert embedder.preprocessing == preprocessing  # for as long as this process lives
        assert verdict.sample == SAMPLE
        assert verdict.passed
    async with opened(model, found, "auto") as embedder:
        assert embedder.preprocessing == f"{preprocessing}+int8"


async def test_a_verdict_that_is_there_stays_but_for_tune(model: str, found: Found, photographs: list[Picture]) -> None:
    """As of two processes that wait for each other: the second one finds what the first one saw."""
    pixels = [found.about.preprocess.fit(photograph) for photograph in photographs]
    first = Verdict(0.97, 0.99, 3, LEAST)
    (found.folder / "int8-1.json").write_text(json.dumps(asdict(first)))
    assert await judge(found, pixels) == first == verdict_of(found)
    replaced = await prepare_int8(model, ModelCache(found.folder.parent), photographs)
    assert (replaced.passed, replaced.sample) == (True, SAMPLE)
    assert await judge(found, pixels[:LEAST]) == replaced == verdict_of(found)


async def test_stopping_ends_the_trial(model: str, found: Found, photographs: list[Picture]) -> None:
    async with opened(model, found, "auto") as embedder:
        await embedder.embed_images(photographs)
    assert verdict_of(found) is None
    assert not list(found.folder.glob("int8*"))


async def test_an_int8_form_that_cannot_be_read_is_judged_anew(
    model: str, found: Found, photographs: list[Picture], caplog: pytest.LogCaptureFixture
) -> None:
    (found.folder / "int8-1.json").write_text(json.dumps(asdict(Verdict(0.999, 0.9999, 0, SAMPLE))))
    int8_path(found.folder).write_bytes(b"noise")
    async with opened(model, found, "int8") as embedder:
        assert len(await embedder.embed_images(photographs[:1])) == 1
        assert not embedder.preprocessing.endswith("+int8")
    assert "cannot be read, and is made anew" in caplog.text
    assert verdict_of(found) is None


async def test_too_few_pictures_and_no_export_are_named(model: str, found: Found, photographs: list[Picture]) -> None:
    cache = ModelCache(found.folder.parent)
    with pytest.raises(ModelError, match=f"at least {LEAST} distinct pictures; there are 2"):
        await prepare_int8(model, cache, photographs[:2] * 20)
    about = replace(found.about, way="torch", reason="it folds")
    (found.folder / "about.json").write_text(json.dumps(asdict(about)))
    with pytest.raises(ModelError, match=r"runs on torch \(it folds\), where int8 is not to be had"):
        await prepare_int8(model, cache, photographs)


def test_the_gate_sees_another_model(model: str, found: Found, pixels: Picture, tmp_path: Path) -> None:
    """The same graph with every weight a little off is no longer the same model."""
    other = onnx.load(found.network)
    random = np.random.default_rng(1)
    for tensor in other.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if value.dtype == np.float32 and value.ndim > 1:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(
                    value * (1 + random.normal(0, 0.3, value.shape).astype(np.float32)), tensor.name
                )
            )
    onnx.save(other, tmp_path / "other.onnx")
    verdict = gate(OnnxTower(found.network), OnnxTower(tmp_path / "other.onnx"), pixels)
    assert not verdict.passed
    assert verdict.cosine_min < 0.998
    same = gate(OnnxTower(found.network), OnnxTower(found.network), pixels)
    assert (same.passed, same.neighbours_changed) == (True, 0)


def test_neighbours_that_change_within_a_tie_are_the_same() -> None:
    exact = np.array([[1, 0.9, 0.899, 0.5], [0.9, 1, 0.2, 0.1], [0.899, 0.2, 1, 0.1], [0.5, 0.1, 0.1, 1]], np.float32)
    swapped = exact.copy()
    swapped[0, [1, 2]] = swapped[0, [2, 1]]
    assert changed_neighbours(exact.copy(), swapped).tolist() == [False] * 4
    swapped[0, 3] = 0.95
    assert changed_neighbours(exact.copy(), swapped).tolist() == [True, False, False, False]
