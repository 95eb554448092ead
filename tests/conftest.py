"""Fixtures that every kind of test may use."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ImgsimServer
from tests.servers import PostgreSQL, SeaweedFS, Valkey

DATA = Path(__file__).parent / "data"
SMALL_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Real photographs, see tests/data/README.md."""
    return sorted((DATA / "classes").rglob("*.jpg")) + sorted((DATA / "neardup").glob("*.jpg"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImgsimServer]:
    """One server with default settings for all tests that do not change how it runs.

    Tests share it: use a collection of your own.
    """
    with ImgsimServer(tmp_path_factory.mktemp("server") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """One Redis for all tests that do not stop it: use key names, or a database number, of your own."""
    with Valkey() as running:
        yield running


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """One PostgreSQL for all tests that do not stop it: take a ``new_database``."""
    with PostgreSQL() as running:
        yield running


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[SeaweedFS]:
    """One S3 server for all tests that do not stop it: take a ``new_bucket``."""
    with SeaweedFS() as running:
        yield running


@pytest.fixture(scope="session")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small open_clip model with seeded random weights, as a folder."""
    torch = pytest.importorskip("torch")
    open_clip = pytest.importorskip("open_clip")
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("open_clip") / "small"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL_CLIP, "preprocess_cfg": {}}))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        weights = open_clip.create_model(f"local-dir:{folder}", load_weights=False).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "open_clip_model.safetensors")
    return folder
