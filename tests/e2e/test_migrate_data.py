"""``imgsim migrate-data``: from a data directory into servers."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import ImgsimServer
from tests.servers import PostgreSQL, SeaweedFS, Valkey

PHOTOS = [Path(__file__).parents[1] / "data" / "classes" / name for name in ("banana", "roses")]


def imgsim(*arguments: object, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "imgsim", *map(str, arguments)]
    variables = {**os.environ, **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=120)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A data directory with 24 photographs that can be searched."""
    folder = tmp_path / "data"
    done = imgsim("index", "--data-dir", folder, "--tag", "moved", *PHOTOS)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def target(tmp_path: Path, postgresql: PostgreSQL, seaweedfs: SeaweedFS, valkey: Valkey) -> Path:
    database = postgresql.new_database()
    config = tmp_path / "cluster.toml"
    config.write_text(
        f'[objects]\nurl = "{seaweedfs.new_bucket()}"\n[database]\nurl = "{database}"\n'
        f'[vectors]\nurl = "{database}"\n[jobs]\nurl = "{valkey.url.replace("/0", "/9")}"\n'
    )
    return config


def migrate(source: Path, target: Path, seaweedfs: SeaweedFS) -> dict[str, Any]:
    done = imgsim(
        "migrate-data", "--data-dir", source, "--to", target, "--json", environment=dict(seaweedfs.environment)
    )
    assert done.returncode == 0, done.stderr + done.stdout
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_everything_arrives_and_is_found_there(source: Path, target: Path, seaweedfs: SeaweedFS) -> None:
    with ImgsimServer(source) as server, server.client() as client:
        before = {image["id"]: image for image in client.get("/images", params={"limit": 100}).json()["images"]}
        first = next(iter(before))
        similar = client.get(f"/images/{first}/similar").json()
        file = client.get(f"/images/{first}/file").content
        thumbnail = client.get(f"/images/{first}/thumbnail").content
        assert server.terminate() == 0

    report = migrate(source, target, seaweedfs)
    assert (report["copied"], report["already_there"], report["failed"], report["complete"]) == (24, 0, [], True)
    assert report["source"] == report["target"]
    assert report["target"]["done"] == 24
    again = migrate(source, target, seaweedfs)
    assert (again["copied"], again["already_there"], again["bytes"]) == (0, 24, 0)

    environment = {"IMGSIM_CONFIG": str(target), **seaweedfs.environment}
    with ImgsimServer(source.parent / "api", environment, role="api") as api, api.client() as client:
        after = {image["id"]: image for image in client.get("/images", params={"limit": 100}).json()["images"]}
        assert after == before
        moved = client.get(f"/images/{first}/similar").json()
        assert [hit["image"]["id"] for hit in moved["results"]] == [hit["image"]["id"] for hit in similar["results"]]
        for one, other in zip(moved["results"], similar["results"], strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        location = client.get(f"/images/{first}/file").headers["location"]
        assert httpx.get(location).content == file
        shown = httpx.get(client.get(f"/images/{first}/thumbnail").headers["location"])
        assert (shown.content, shown.headers["content-type"]) == (thumbnail, "image/webp")
        assert len(client.get("/images", params={"tag": "moved", "limit": 100}).json()["images"]) == 24


def test_a_run_that_was_killed_goes_on_where_it_ended(source: Path, target: Path, seaweedfs: SeaweedFS) -> None:
    command = [sys.executable, "-m", "imgsim", "migrate-data", "--data-dir", str(source), "--to", str(target)]
    running = subprocess.Popen(command, env={**os.environ, **seaweedfs.environment}, stderr=subprocess.DEVNULL)
    try:
        running.wait(1.2)  # start-up takes most of it
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()
    report = migrate(source, target, seaweedfs)
    assert report["copied"] + report["already_there"] == 24
    assert report["complete"]
    assert report["source"] == report["target"]


def test_bytes_that_are_not_those_of_their_row_are_not_copied(source: Path, target: Path, seaweedfs: SeaweedFS) -> None:
    broken = next((source / "objects" / "originals").glob("*/*"))
    broken.write_bytes(broken.read_bytes()[:-1] + b"?")
    done = imgsim("migrate-data", "--data-dir", source, "--to", target, environment=dict(seaweedfs.environment))
    assert done.returncode == 1
    assert "23 copied, 0 already there, 1 failed" in done.stdout
    assert broken.name in done.stderr
    assert "SHA-256" in done.stderr
    assert "Not complete" in done.stderr


def test_the_environment_is_about_the_target_alone(source: Path, target: Path, seaweedfs: SeaweedFS) -> None:
    """As in the shell of one who runs the cluster."""
    database = tomllib.loads(target.read_text())["database"]["url"]
    cluster = {"IMGSIM_CONFIG": str(target), "IMGSIM_DATABASE__URL": database, "IMGSIM_VECTORS__URL": database}
    environment = {**seaweedfs.environment, **cluster}
    done = imgsim("migrate-data", "--data-dir", source, "--to", target, environment=environment)
    assert done.returncode == 0, done.stderr
    assert "24 copied, 0 already there, 0 failed" in done.stdout

    own = source.parent / "own.toml"
    own.write_text(f'data_dir = "{source}"')
    again = imgsim("migrate-data", "--config", own, "--to", target, environment=environment)
    assert "0 copied, 24 already there, 0 failed" in again.stdout


def test_a_source_without_images_is_an_error(tmp_path: Path, target: Path, seaweedfs: SeaweedFS) -> None:
    (tmp_path / "empty").mkdir()
    environment = dict(seaweedfs.environment)
    done = imgsim("migrate-data", "--data-dir", tmp_path / "empty", "--to", target, environment=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert "There is no image in sqlite://" in done.stderr
    assert "--data-dir" in done.stderr


def test_a_deployment_is_not_copied_onto_itself(target: Path, seaweedfs: SeaweedFS) -> None:
    environment = dict(seaweedfs.environment)
    done = imgsim("migrate-data", "--config", target, "--to", target, environment=environment)
    assert done.returncode == 2
    assert "Source and target have the same objects.url" in done.stderr
