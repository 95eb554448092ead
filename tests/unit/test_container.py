"""The composition root: which part is chosen, what a test puts in its place, and what is not imported."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import providers

from imgsim.adapters.database.memory import MemoryImageRepository
from imgsim.adapters.embedding.colour import ColourEmbedder
from imgsim.adapters.objects.memory import MemoryObjectStore
from imgsim.container import Container, migrate_database
from imgsim.core.errors import ImgsimError, PluginError, SettingsError
from imgsim.running import opened
from imgsim.settings import Settings, load_settings

MEMORY: dict[str, Any] = {
    "objects": {"url": "memory:"},
    "database": {"url": "memory:"},
    "vectors": {"url": "qdrant-memory:"},
    "embedder": {"url": "colour:"},
}


def settings(tmp_path: Path, **values: Any) -> Settings:
    return load_settings(overrides={"data_dir": tmp_path / "data"} | MEMORY | values)


async def test_the_schemes_of_the_urls_choose_the_parts(tmp_path: Path) -> None:
    container = Container(settings=settings(tmp_path))

    assert isinstance(container.objects(), MemoryObjectStore)
    assert isinstance(container.images(), MemoryImageRepository)
    assert isinstance(container.embedder(), ColourEmbedder)
    async with opened(container):
        assert await container.vectors().live() == "colour-histogram@1"


async def test_a_test_puts_its_own_part_in_by_keyword(tmp_path: Path) -> None:
    class Images(MemoryImageRepository):
        """Mine."""

    mine = Images()
    container = Container(settings=settings(tmp_path), images=providers.Object(mine))

    assert container.images() is mine
    assert container.ports().images is mine
    assert container.services().images() is mine
    async with opened(container):
        assert list(await mine.counts()) != []


def test_two_containers_share_nothing(tmp_path: Path) -> None:
    one, two = Container(settings=settings(tmp_path)), Container(settings=settings(tmp_path))

    assert one.images() is one.images()
    assert one.images() is not two.images()
    assert one.runner().owner != two.runner().owner


@pytest.mark.parametrize(
    ("part", "valid"),
    [
        ("objects", "file:"),
        ("database", "sqlite:"),
        ("vectors", "qdrant-edge:"),
        ("jobs", "inprocess:"),
        ("embedder", "local:"),
    ],
)
async def test_an_unknown_scheme_names_the_setting_the_value_and_those_there_are(
    tmp_path: Path, part: str, valid: str
) -> None:
    container = Container(settings=settings(tmp_path, **{part: {"url": "carrier-pigeon://me:secret@loft"}}))

    with pytest.raises(SettingsError) as raised:
        async with opened(container):
            pass

    message = raised.value.message
    assert f"{part}.url" in message
    assert "carrier-pigeon://me:" in message
    assert "secret" not in message
    assert valid in message.partition("Valid: ")[2]
    assert not (tmp_path / "data").exists(), "nothing was touched"


async def test_migrating_an_unknown_database_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"database\.url.*Valid: .*sqlite:"):
        await migrate_database(settings(tmp_path, database={"url": "oracle://x"}))


async def test_plugins_that_cannot_be_used_are_found_before_anything_is_touched(tmp_path: Path) -> None:
    container = Container(settings=settings(tmp_path, plugins={"disabled": ["palete"]}))

    with pytest.raises(PluginError):
        async with opened(container):
            pass
    assert not (tmp_path / "data").exists()


async def test_a_part_that_cannot_be_opened_leaves_the_data_directory_free(tmp_path: Path) -> None:
    broken = Container(settings=settings(tmp_path, database={"url": f"sqlite://{tmp_path}"}))
    with pytest.raises(ImgsimError, match="cannot be opened"):
        async with opened(broken):
            pass

    async with opened(Container(settings=settings(tmp_path))):
        pass


@pytest.mark.parametrize("heavy", ["torch", "onnxruntime", "litestar", "PIL", "qdrant_client", "piccolo"])
def test_the_command_line_imports_nothing_heavy(heavy: str) -> None:
    code = f"import sys, imgsim.cli; sys.exit({heavy!r} in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_the_container_imports_no_torch() -> None:
    code = "import sys, imgsim.container; sys.exit('torch' in sys.modules or 'onnxruntime' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
