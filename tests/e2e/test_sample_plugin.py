"""The sample plugin, installed with pip into a folder of its own, at work in a real server."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.processes import ImgsimServer, wait_until_at_rest

SAMPLE = Path(__file__).parents[1] / "sample_plugin"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings for a process that finds the plugin."""
    folder = tmp_path_factory.mktemp("sample")
    source = shutil.copytree(SAMPLE, folder / "source")  # building leaves traces
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *offline, "--target", str(site), str(source)], check=True, timeout=120)
    return {"PYTHONPATH": str(site)}


@pytest.fixture(scope="module")
def server(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImgsimServer]:
    with ImgsimServer(tmp_path_factory.mktemp("palette") / "data", environment) as server:
        yield server


def stages(environment: dict[str, str]) -> dict[str, object]:
    command = [sys.executable, "-m", "imgsim", "plugins", "--json"]
    ran = subprocess.run(command, env=os.environ | environment, capture_output=True, check=True, timeout=60)
    found: dict[str, object] = json.loads(ran.stdout)
    return found


def upload(server: ImgsimServer, data: bytes) -> dict[str, object]:
    with server.client() as client:
        image = client.post("/images/upload", files={"file": data}).raise_for_status().json()
        return wait_until_at_rest(client, image["id"])


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(file, "PNG")
    return file.getvalue()


def test_the_sample_is_small_enough_to_read() -> None:
    lines = [*SAMPLE.glob("*.py"), SAMPLE / "pyproject.toml"]
    assert sum(len(path.read_text().splitlines()) for path in lines) < 70


def test_the_stage_is_listed_in_its_place_with_its_origin(environment: dict[str, str]) -> None:
    rows = stages(environment)["stages"]

    assert isinstance(rows, list)
    assert [row["stage"] for row in rows] == ["palette", "embed", "fingerprint", "thumbnail", "index", "copies"]
    assert rows[0] == {
        "stage": "palette",
        "after": [],
        "before": ["embed"],
        "plugin": "palette",
        "distribution": "imgsim-palette 1.0",
    }


def test_a_disabled_plugin_is_gone(environment: dict[str, str]) -> None:
    found = stages(environment | {"IMGSIM_PLUGINS__DISABLED": "palette"})

    assert "palette" not in [row["stage"] for row in found["stages"]]  # type: ignore[attr-defined]
    assert found["disabled"] == ["palette"]


def test_a_photo_ends_done_with_its_colours(server: ImgsimServer, photos: list[Path]) -> None:
    image = upload(server, photos[0].read_bytes())

    assert image["state"] == "done"
    colours = image["features"]["palette"]  # type: ignore[index]
    assert 1 < len(colours) <= 5
    assert sum(each["share"] for each in colours) == pytest.approx(1, abs=0.01)
    assert colours == sorted(colours, key=lambda each: -each["share"])


def test_a_blank_picture_ends_done_and_is_found_by_nobody(server: ImgsimServer, photos: list[Path]) -> None:
    photo, blank = upload(server, photos[1].read_bytes()), upload(server, png("#00ff80"))

    assert (blank["state"], blank["error"], blank["embedding"]) == ("done", None, None)
    with server.client() as client:
        refused = client.get(f"/images/{blank['id']}/similar")
        similar = client.get(f"/images/{photo['id']}/similar", params={"limit": 100}).raise_for_status().json()
        found = client.post("/search", files={"file": png("#00ff81")}, data={"limit": 100}).raise_for_status().json()

    assert refused.status_code == 409
    assert refused.json()["type"] == "urn:imgsim:error:not-searchable"
    assert refused.json()["detail"] == (
        "The stage palette rejected the image: The picture is blank: all of it is #00ff80."
    )
    assert blank["id"] not in [hit["image"]["id"] for hit in similar["results"] + found["results"]]
    assert photo["id"] in [hit["image"]["id"] for hit in found["results"]]
