"""OpenClipEmbedder against open_clip itself, and what it says when a model cannot be had."""

import asyncio
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from PIL import Image

from imgsim.adapters.embedding import onnx_cache
from imgsim.adapters.embedding.onnx_cache import ModelCache
from imgsim.adapters.embedding.onnx_export import export, exported
from imgsim.adapters.embedding.onnx_session import simplify
from imgsim.adapters.embedding.open_clip import OpenClipEmbedder
from imgsim.core.errors import ModelError, TextNotSupported
from imgsim.core.models import Picture

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

DATA = Path(__file__).parents[1] / "data" / "classes"
ARCHITECTURE = "imgsim-test-vit"
TIMM = "imgsim-test-timm"
VISION = {"image_size": 96, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
TIMM_VISION = {
    "image_size": 224,
    "timm_model_name": "vit_tiny_patch16_224",
    "timm_pool": "token",
    "timm_proj": "linear",
}
VOLO_VISION = {"image_size": 224, "timm_model_name": "volo_d1_224", "timm_pool": "", "timm_proj": "linear"}
RESNET = "imgsim-test-resnet"
VOLO = "imgsim-test-volo"
RESNET_VISION = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16, "patch_size": None}
SCALED_VISION = VISION | {"ls_init_value": 0.1, "no_ln_pre": True, "final_ln_after_pool": True}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    ARCHITECTURE: (VISION, TEXT),
    TIMM: (TIMM_VISION, TEXT),
    RESNET: (RESNET_VISION, TEXT),
    VOLO: (VOLO_VISION, TEXT),
    "imgsim-test-scaled": (SCALED_VISION, TEXT),
    "imgsim-test-average": (VISION | {"pool_type": "avg"}, TEXT),
    "imgsim-test-hub-tower": (VISION, TEXT | {"hf_model_name": "imgsim/no-such-tower"}),
}
WAYS = {
    ARCHITECTURE: "plain",
    "imgsim-test-scaled": "plain",
    "imgsim-test-average": "stock",
    RESNET: "stock",
    TIMM: "stock",
    VOLO: "torch",  # the exporter does not know how it folds
}
TEXTS = ["a photograph of a banana", "roses", "Schuhe aus Leder, braun", "word " * 100]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small architectures, known to open_clip, and checkpoints of them with seeded random weights."""
    folder = tmp_path_factory.mktemp("models")
    for name, (vision, text) in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 48, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for name in WAYS:
            weights = open_clip.create_model(name).state_dict()
            torch.save(weights, folder / f"{name}.pt")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ModelCache:
    return ModelCache(tmp_path_factory.mktemp("exports"))


def model_folder(folder: Path, weights: Path, **text: Any) -> str:
    """A model that a child process knows as well: it describes itself."""
    from safetensors.torch import save_file

    folder.mkdir()
    config = {"embed_dim": 48, "vision_cfg": VISION, "text_cfg": TEXT | text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(torch.load(weights), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


async def opened(model: str, cache: ModelCache, threads: int = 2) -> OpenClipEmbedder:
    """An embedder of an architecture that is known in this process alone: so the export is made here."""
    await asyncio.to_thread(export, model, cache)
    return OpenClipEmbedder(model, threads, 4, 100, cache.folder)


@pytest.fixture(scope="module")
def photographs() -> list[Picture]:
    found = [np.array(Image.open(path).convert("RGB")) for path in sorted(DATA.glob("*/*.jpg"))[::4][:10]]
    assert found
    return found


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt to reach a host fails, and is noted."""
    attempts: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        attempts.append(arguments)
        raise OSError("the test has no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


@pytest.fixture
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def reference(photographs: list[Picture], model: Any, transform: Any) -> NDArray[np.float32]:
    """open_clip as its documentation uses it."""
    model.eval()
    with torch.no_grad():
        images = torch.stack([transform(Image.fromarray(photograph)) for photograph in photographs])
        rows = model.encode_image(images, normalize=True)
    result: NDArray[np.float32] = rows.numpy()
    return result


async def fails(model: str, match: str, cache: ModelCache) -> ModelError:
    with pytest.raises(ModelError, match=match) as failure:
        await asyncio.to_thread(export, model, cache)
    return failure.value


@pytest.mark.parametrize("architecture", WAYS)
async def test_equals_open_clip_with_a_file_and_no_network(
    architecture: str, folder: Path, cache: ModelCache, photographs: list[Picture], no_network: list[Any]
) -> None:
    path = folder / f"{architecture}.pt"
    async with await opened(f"{architecture}/{path}", cache) as embedder:
        vectors = await embedder.embed_images(photographs)
        texts = await embedder.embed_texts(TEXTS)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert embedder.model_id == f"{architecture}/{path.name}@{digest[:12]}"
        assert (embedder.dimensions, embedder.supports_text) == (48, True)
        assert embedder.input_size == {RESNET: 64, TIMM: 224, VOLO: 224}.get(architecture, 96)
        assert embedder.preprocessing.startswith(f"shortest-bicubic-{embedder.input_size}x{embedder.input_size}-")
    assert no_network == []
    found = cache.find(f"{architecture}/{path}")
    assert found
    assert found.about.way == WAYS[architecture]
    assert found.network.exists() == (WAYS[architecture] != "torch")
    assert bool(found.about.reason) == (WAYS[architecture] != "plain")
    model, _, transform = open_clip.create_model_and_transforms(architecture, pretrained=str(path))
    assert_allclose(vectors, reference(photographs, model, transform), atol=1e-5)
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer(architecture)(TEXTS), normalize=True)
    assert_allclose(texts, expected.numpy(), atol=1e-5)


async def test_a_relative_path_and_safetensors(
    folder: Path, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    monkeypatch.chdir(folder)
    save_file(torch.load(f"{ARCHITECTURE}.pt"), "weights.safetensors")
    picture = np.zeros((40, 60, 3), np.uint8)
    async with (
        await opened(f"{ARCHITECTURE}/weights.safetensors", cache) as one,
        await opened(f"{ARCHITECTURE}/./{ARCHITECTURE}.pt", cache) as other,
    ):
        assert_allclose(await one.embed_images([picture]), await other.embed_images([picture]), atol=1e-6)
        assert one.model_id != other.model_id


async def test_a_tag_in_the_cache_needs_no_network_and_brings_its_preprocessing(
    folder: Path,
    cache: ModelCache,
    photographs: list[Picture],
    empty_hub_cache: Path,
    no_network: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "interpolation": "bilinear", "resize_mode": "squash"}
    tag = {"hf_hub": "imgsim/test/weights.pt", "quick_gelu": False, **own}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, ARCHITECTURE, {"tag_1": tag})
    repository = empty_hub_cache / "models--imgsim--test"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abc")
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (snapshot / "weights.pt").write_bytes((folder / f"{ARCHITECTURE}.pt").read_bytes())
    async with await opened(f"{ARCHITECTURE}/tag_1", cache) as embedder:
        vectors = await embedder.embed_images(photographs)
        assert embedder.model_id.startswith(f"{ARCHITECTURE}/tag_1@")
        assert embedder.preprocessing.startswith("squash-bilinear-96x96-")
    assert no_network == []
    model, _, transform = open_clip.create_model_and_transforms(
        ARCHITECTURE, pretrained=str(snapshot / "weights.pt"), **{f"image_{key}": value for key, value in own.items()}
    )
    assert_allclose(vectors, reference(photographs, model, transform), atol=1e-5)


async def test_an_unreachable_hub_is_said_soon(cache: ModelCache, empty_hub_cache: Path, no_network: list[Any]) -> None:
    started = time.monotonic()
    reason = "The weights of ViT-B-32/laion2b_s34b_b79k cannot be fetched"
    failure = await fails("ViT-B-32/laion2b_s34b_b79k", reason, cache)
    assert time.monotonic() - started < 10
    assert "huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K" in failure.message
    assert "name a checkpoint file instead" in failure.message


async def test_a_missing_file_is_named(folder: Path, cache: ModelCache, no_network: list[Any]) -> None:
    await fails(f"{ARCHITECTURE}/{folder}/absent.pt", f"There is no checkpoint file {folder}/absent.pt", cache)
    await fails("ViT-B-32/absent.safetensors", r"There is no checkpoint file .*/absent\.safetensors", cache)
    await fails(f"local-dir:{folder}", f"The model folder {folder} needs open_clip_config.json", cache)
    assert no_network == []


async def test_an_unknown_architecture_names_near_ones(cache: ModelCache) -> None:
    failure = await fails("ViT-B32/openai", "open_clip has no architecture 'ViT-B32'", cache)
    assert "ViT-B-32" in failure.message


async def test_an_unknown_tag_names_the_valid_ones(cache: ModelCache) -> None:
    failure = await fails("ViT-B-32/laion3b", "The architecture ViT-B-32 has no pretrained tag 'laion3b'", cache)
    assert "laion2b_s34b_b79k" in failure.message


async def test_a_file_that_does_not_fit_is_an_error(folder: Path, cache: ModelCache, tmp_path: Path) -> None:
    await fails(f"ViT-B-32/{folder}/{ARCHITECTURE}.pt", "cannot be read as weights of ViT-B-32", cache)
    (tmp_path / "noise.pt").write_bytes(b"noise")
    await fails(f"{ARCHITECTURE}/{tmp_path}/noise.pt", "cannot be read as weights of", cache)
    assert not list(cache.folder.glob("making-*"))


async def test_without_its_tokenizer_a_model_embeds_pictures_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = model_folder(tmp_path / "m", folder / f"{ARCHITECTURE}.pt", hf_tokenizer_name="imgsim/no-such-tokenizer")
    async with OpenClipEmbedder(model, 1, 4, 100, tmp_path / "exports") as embedder:
        assert not embedder.supports_text
        assert (await embedder.embed_images([np.zeros((9, 9, 3), np.uint8)])).shape == (1, 48)
        with pytest.raises(TextNotSupported, match="has no tokenizer here"):
            await embedder.embed_texts(["a cat"])
    # It may have one by the next start, which so looks again, but does not export again.
    cache = ModelCache(tmp_path / "exports")
    assert cache.find(model) is None
    (made,) = cache.folder.glob("*/model.onnx")
    written = made.stat().st_mtime_ns
    assert (await asyncio.to_thread(export, model, cache)).no_text_reason
    assert made.stat().st_mtime_ns == written


async def test_a_text_tower_of_the_hub_is_refused_with_a_file(
    folder: Path, cache: ModelCache, no_network: list[Any]
) -> None:
    model = f"imgsim-test-hub-tower/{folder}/{ARCHITECTURE}.pt"
    await fails(model, "described by files of the model hub", cache)
    assert no_network == []


async def test_a_missing_extra_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('it is not installed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ModelError, match=r"needs open_clip and torch: pip install 'imgsim\[clip\]'"):
        await exported("ViT-B-32/openai", ModelCache(tmp_path / "exports"))


async def test_a_very_long_picture_needs_no_memory_to_match(folder: Path, cache: ModelCache) -> None:
    line = np.zeros((1, 60_000, 3), np.uint8)
    line[:, 29_000:31_000] = np.random.default_rng(5).integers(0, 256, (1, 2000, 3), dtype=np.uint8)
    async with await opened(f"{ARCHITECTURE}/{folder}/{ARCHITECTURE}.pt", cache) as embedder:
        whole, middle = await embedder.embed_images([line, line[:, 29_992:30_008]])
    assert_allclose(whole, middle, atol=1e-5)


PICTURES_ALONE = """
import asyncio, sys
from pathlib import Path
import numpy as np
from imgsim.adapters.embedding.open_clip import OpenClipEmbedder

async def main(model, exports):
    async with OpenClipEmbedder(model, 2, 4, 100, Path(exports)) as embedder:
        picture = np.arange(300 * 200 * 3, dtype=np.uint8).reshape(300, 200, 3)
        image = await embedder.embed_images([picture])
        heavy = sorted({"torch", "open_clip", "onnx"} & set(sys.modules))
        text = await embedder.embed_texts(["a cat"])
        print(embedder.model_id, heavy, image.shape, text.shape, "torch" in sys.modules)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_an_export_serves_many_processes_and_needs_no_torch(folder: Path, tmp_path: Path) -> None:
    """Two start at once and make one export; a later one imports torch for the first text, not before."""
    model = model_folder(tmp_path / "model", folder / f"{ARCHITECTURE}.pt")
    cache = ModelCache(tmp_path / "exports")
    one, other = await asyncio.gather(exported(model, cache), exported(model, cache))
    assert one == other == cache.find(model)
    assert len(list(cache.folder.glob("*/model.onnx"))) == 1
    command = [sys.executable, "-c", PICTURES_ALONE, model, str(cache.folder)]
    said = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == f"{one.about.model_id} [] (1, 48) (1, 48) True"


async def test_an_export_that_cannot_be_read_is_made_anew(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_folder(tmp_path / "model", folder / f"{ARCHITECTURE}.pt")
    cache = ModelCache(tmp_path / "exports")
    found = await asyncio.to_thread(export, model, cache)
    weights = found.folder / "model.onnx.data"
    weights.write_bytes(weights.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        async with OpenClipEmbedder(model, 1, 4, 100, cache.folder) as embedder:
            assert (await embedder.embed_images([np.zeros((9, 9, 3), np.uint8)])).shape == (1, 48)
    assert "cannot be read, and is made anew" in caplog.text


async def test_a_full_disk_is_no_verdict_on_the_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_folder(tmp_path / "model", folder / f"{ARCHITECTURE}.pt")
    cache = ModelCache(tmp_path / "exports")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"  # bytes
    (tmp_path / "sitecustomize.py").write_text(limit)
    with monkeypatch.context() as child:
        child.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        with pytest.raises(ModelError, match=r"tried again at the next start: OSError: .*too large"):
            await exported(model, cache)
    assert [path.name for path in cache.folder.iterdir()] == ["models.lock"]
    assert (await exported(model, cache)).about.way == "plain"


async def test_what_cannot_be_written_is_told_from_what_cannot_be_run(
    folder: Path, cache: ModelCache, tmp_path: Path
) -> None:
    found = await asyncio.to_thread(export, f"{ARCHITECTURE}/{folder}/{ARCHITECTURE}.pt", cache)
    with pytest.raises(OSError, match="cannot be written"):
        simplify(found.network, tmp_path / "absent" / "model.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with pytest.raises(Exception, match=r"noise\.onnx failed") as failure:
        simplify(tmp_path / "noise.onnx", tmp_path / "model.onnx")
    assert not isinstance(failure.value, OSError)


async def test_another_version_of_the_export_makes_it_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"{ARCHITECTURE}/{folder}/{ARCHITECTURE}.pt"
    cache = ModelCache(tmp_path / "exports")
    found = await asyncio.to_thread(export, model, cache)
    assert cache.find(model) == found
    monkeypatch.setattr(onnx_cache, "VERSION", onnx_cache.VERSION + 1)
    assert cache.find(model) is None
    again = await asyncio.to_thread(export, model, cache)
    assert again.folder != found.folder
    assert cache.find(model) == again


async def test_other_weights_are_another_model(folder: Path, cache: ModelCache, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    weights = torch.load(folder / f"{ARCHITECTURE}.pt")
    torch.save(weights, path)
    model = f"{ARCHITECTURE}/{path}"
    async with await opened(model, cache) as embedder:
        first = embedder.model_id
        torch.save(weights | {"visual.proj": weights["visual.proj"] * 2}, path)
        with pytest.raises(ModelError, match=f"no longer those of {first}: restart"):
            await embedder.embed_texts(["a cat"])
    assert cache.find(model) is None
    async with await opened(model, cache) as embedder:
        assert embedder.model_id != first


async def test_a_child_that_dies_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ModelError, match="The process for the export of ViT-B-32/openai was ended by signal 9"):
        await exported("ViT-B-32/openai", ModelCache(tmp_path / "exports"))
