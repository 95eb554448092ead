"""The README's examples, run."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.processes import ImgsimServer, wait_until_at_rest
from tests.readme import code_blocks


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed, which the README's examples use")
def test_the_http_examples_run(server: ImgsimServer, photos: list[Path], tmp_path: Path) -> None:
    shutil.copy(photos[0], tmp_path / "cat.jpg")
    shutil.copy(photos[1], tmp_path / "dog.jpg")
    (script,) = code_blocks("bash", after="<!-- http examples -->")
    assert script.count("curl") > 10
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={"IMGSIM": server.url, "PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert "event: done" in ran.stdout
    assert (tmp_path / "copy.jpg").read_bytes() == photos[0].read_bytes()
    assert (tmp_path / "cat.f32").stat().st_size == 1280 * 4


def test_the_client_example_runs(server: ImgsimServer, photos: list[Path], tmp_path: Path) -> None:
    shutil.copy(photos[2], tmp_path / "cat.jpg")
    shutil.copy(photos[3], tmp_path / "dog.jpg")
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as album:
        album.write(photos[4], "other.jpg")
    (script,) = code_blocks("python", after="<!-- client example -->")
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "IMGSIM": server.url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("done ")
    assert "dog.jpg" in lines[1]
    assert lines[-4:-2] == ["done", "done 1 []"]
    assert "'pets'" in lines[-2]
    assert lines[-1].startswith("404 urn:imgsim:error:image-not-found No image has the id")
    assert (tmp_path / "copy.jpg").read_bytes() == photos[2].read_bytes()
    assert (tmp_path / "small.webp").read_bytes()[8:12] == b"WEBP"


def test_the_plugin_of_the_readme_works(photos: list[Path], tmp_path: Path) -> None:
    (code,) = code_blocks("python", after="## Plugins")
    (project,) = code_blocks("toml", after="## Plugins")
    assert 'brightness = "imgsim_brightness"' in project
    site = tmp_path / "site"
    installed = site / "imgsim_brightness-1.0.dist-info"
    installed.mkdir(parents=True)
    (site / "imgsim_brightness.py").write_text(code)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: imgsim-brightness\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[imgsim]\nbrightness = imgsim_brightness\n")
    with ImgsimServer(tmp_path / "data", {"PYTHONPATH": str(site)}) as server, server.client() as client:
        uploaded = client.post("/images/upload", files={"file": photos[0].read_bytes()}).raise_for_status().json()
        image = wait_until_at_rest(client, uploaded["id"])
    assert image["state"] == "done"
    assert 0 < image["features"]["brightness"]["mean"] < 1
