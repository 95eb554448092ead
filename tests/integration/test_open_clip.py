"""OpenClipEmbedder against open_clip itself, and what it says when a model cannot be had."""

import hashlib
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from PIL import Image

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
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    ARCHITECTURE: (VISION, TEXT),
    TIMM: (TIMM_VISION, TEXT),
    "imgsim-test-hub-tokenizer": (VISION, TEXT | {"hf_tokenizer_name": "imgsim/no-such-tokenizer"}),
    "imgsim-test-hub-tower": (VISION, TEXT | {"hf_model_name": "imgsim/no-such-tower"}),
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
        for name in (ARCHITECTURE, TIMM):
            weights = open_clip.create_model(name).state_dict()
            torch.save(weights, folder / f"{name}.pt")
    return folder


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


async def fails(model: str, match: str) -> ModelError:
    with pytest.raises(ModelError, match=match) as failure:
        async with OpenClipEmbedder(model, 1, 4, 100):
            raise AssertionError(f"{model} opened")
    return failure.value


@pytest.mark.parametrize("architecture", [ARCHITECTURE, TIMM])
async def test_equals_open_clip_with_a_file_and_no_network(
    architecture: str, folder: Path, photographs: list[Picture], no_network: list[Any]
) -> None:
    path = folder / f"{architecture}.pt"
    async with OpenClipEmbedder(f"{architecture}/{path}", 2, 4, 100) as embedder:
        vectors = await embedder.embed_images(photographs)
        texts = await embedder.embed_texts(TEXTS)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert embedder.model_id == f"{architecture}/{path.name}@{digest[:12]}"
        assert (embedder.dimensions, embedder.supports_text) == (48, True)
        assert embedder.input_size == (96 if architecture == ARCHITECTURE else 224)
        assert embedder.preprocessing.startswith(f"shortest-bicubic-{embedder.input_size}x{embedder.input_size}-")
    assert no_network == []
    model, _, transform = open_clip.create_model_and_transforms(architecture, pretrained=str(path))
    assert_allclose(vectors, reference(photographs, model, transform), atol=1e-5)
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer(architecture)(TEXTS), normalize=True)
    assert_allclose(texts, expected.numpy(), atol=1e-5)


async def test_a_relative_path_and_safetensors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    monkeypatch.chdir(folder)
    save_file(torch.load(f"{ARCHITECTURE}.pt"), "weights.safetensors")
    picture = np.zeros((40, 60, 3), np.uint8)
    async with (
        OpenClipEmbedder(f"{ARCHITECTURE}/weights.safetensors", 1, 4, 100) as one,
        OpenClipEmbedder(f"{ARCHITECTURE}/./{ARCHITECTURE}.pt", 1, 4, 100) as other,
    ):
        assert_allclose(await one.embed_images([picture]), await other.embed_images([picture]), atol=1e-6)
        assert one.model_id != other.model_id


async def test_a_tag_in_the_cache_needs_no_network_and_brings_its_preprocessing(
    folder: Path,
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
    async with OpenClipEmbedder(f"{ARCHITECTURE}/tag_1", 1, 4, 100) as embedder:
        vectors = await embedder.embed_images(photographs)
        assert embedder.model_id.startswith(f"{ARCHITECTURE}/tag_1@")
        assert embedder.preprocessing.startswith("squash-bilinear-96x96-")
    assert no_network == []
    model, _, transform = open_clip.create_model_and_transforms(
        ARCHITECTURE, pretrained=str(snapshot / "weights.pt"), **{f"image_{key}": value for key, value in own.items()}
    )
    assert_allclose(vectors, reference(photographs, model, transform), atol=1e-5)


async def test_an_unreachable_hub_is_said_soon(empty_hub_cache: Path, no_network: list[Any]) -> None:
    started = time.monotonic()
    failure = await fails("ViT-B-32/laion2b_s34b_b79k", "The weights of ViT-B-32/laion2b_s34b_b79k cannot be fetched")
    assert time.monotonic() - started < 10
    assert "huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K" in failure.message
    assert "name a checkpoint file instead" in failure.message


async def test_a_missing_file_is_named(folder: Path, no_network: list[Any]) -> None:
    await fails(f"{ARCHITECTURE}/{folder}/absent.pt", f"There is no checkpoint file {folder}/absent.pt")
    await fails("ViT-B-32/absent.safetensors", r"There is no checkpoint file .*/absent\.safetensors")
    await fails(f"local-dir:{folder}", f"The model folder {folder} needs open_clip_config.json")
    assert no_network == []


async def test_an_unknown_architecture_names_near_ones() -> None:
    failure = await fails("ViT-B32/openai", "open_clip has no architecture 'ViT-B32'")
    assert "ViT-B-32" in failure.message


async def test_an_unknown_tag_names_the_valid_ones() -> None:
    failure = await fails("ViT-B-32/laion3b", "The architecture ViT-B-32 has no pretrained tag 'laion3b'")
    assert "laion2b_s34b_b79k" in failure.message


async def test_a_file_that_does_not_fit_is_an_error(folder: Path, tmp_path: Path) -> None:
    await fails(f"ViT-B-32/{folder}/{ARCHITECTURE}.pt", "cannot be read as weights of ViT-B-32")
    (tmp_path / "noise.pt").write_bytes(b"noise")
    await fails(f"{ARCHITECTURE}/{tmp_path}/noise.pt", "cannot be read as weights of")


async def test_without_its_tokenizer_a_model_embeds_pictures_only(folder: Path, no_network: list[Any]) -> None:
    async with OpenClipEmbedder(f"imgsim-test-hub-tokenizer/{folder}/{ARCHITECTURE}.pt", 1, 4, 100) as embedder:
        assert not embedder.supports_text
        assert (await embedder.embed_images([np.zeros((9, 9, 3), np.uint8)])).shape == (1, 48)
        with pytest.raises(TextNotSupported, match="has no tokenizer here"):
            await embedder.embed_texts(["a cat"])
    assert no_network == []


async def test_a_text_tower_of_the_hub_is_refused_with_a_file(folder: Path, no_network: list[Any]) -> None:
    await fails(f"imgsim-test-hub-tower/{folder}/{ARCHITECTURE}.pt", "described by files of the model hub")
    assert no_network == []


async def test_a_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    failure = await fails("ViT-B-32/openai", "needs open_clip and torch")
    assert "pip install 'imgsim[clip]'" in failure.message


async def test_a_very_long_picture_needs_no_memory_to_match(folder: Path) -> None:
    line = np.zeros((1, 60_000, 3), np.uint8)
    line[:, 29_000:31_000] = np.random.default_rng(5).integers(0, 256, (1, 2000, 3), dtype=np.uint8)
    async with OpenClipEmbedder(f"{ARCHITECTURE}/{folder}/{ARCHITECTURE}.pt", 1, 4, 100) as embedder:
        whole, middle = await embedder.embed_images([line, line[:, 29_992:30_008]])
    assert_allclose(whole, middle, atol=1e-5)
