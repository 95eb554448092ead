"""``imgsim tune``, in processes of its own."""

import shutil
import signal
import time
import tomllib
from pathlib import Path

import pytest

from tests.e2e.test_cli import end, run, start, until
from tests.processes import ImgsimServer


def test_the_packaged_model_is_measured_and_nothing_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    told = run("tune", "--seconds", "0.2").said("Nothing is changed: --write FILE")

    first, _, head, *rows = told.out.splitlines()
    assert first.startswith("efficientnet-lite0@1 on ")
    assert first.endswith(" cores, made pictures")
    assert head.split() == ["threads", "batch", "precision", "images/s", "alone", "ms", "busy", "ms"]
    table, _, toml = "\n".join(rows).partition("\n\n")
    assert table.count("*") == 1
    assert tomllib.loads(toml)["embedder"].keys() == {"threads"}
    assert list(tmp_path.iterdir()) == []


def test_the_choice_goes_into_the_settings_file_beside_a_running_server(
    server: ImgsimServer, tmp_path: Path, photos: list[Path]
) -> None:
    config = tmp_path / "imgsim.toml"
    config.write_text("# ours\n[upload]\nmax_bytes = 9_000_000 # few\n")
    shutil.copytree(photos[0].parent, tmp_path / "pictures")
    (tmp_path / "pictures" / "broken.jpg").write_bytes(photos[0].read_bytes()[:500])
    (tmp_path / "pictures" / "again.jpg").write_bytes(photos[0].read_bytes())
    (tmp_path / "pictures" / "notes.txt").write_text("no image")
    arguments = [
        "--data-dir",
        server.data_dir,
        "--images",
        tmp_path / "pictures",
        "--seconds",
        "0.2",
        "--write",
        config,
    ]

    told = run("tune", "--json", *arguments, EMBEDDER__THREADS="1")

    told.said(f"Written to {config}", "broken.jpg", "The environment variable IMGSIM_EMBEDDER__THREADS goes before it.")
    found = told.json
    assert found["pictures"] == len(list(photos[0].parent.iterdir()))
    measured = {row["threads"]: row for row in found["measured"]}
    assert sorted(measured) == sorted({1, max(1, found["cores"] // 2), found["cores"]})
    for row in measured.values():
        assert (row["batch"], row["precision"]) == (1, "fp32")
        assert row["images_per_second"] > 0
        assert 0 < row["alone_ms"] < 10_000
        assert 0 < row["busy_ms"] < 10_000
    assert found["chosen"].keys() == {"threads"}
    assert found["chosen"]["threads"] in {0, *measured} - {found["cores"]}
    assert config.read_text().startswith("# ours\n[upload]\nmax_bytes = 9_000_000 # few\n")
    assert run("config", "--json", "--config", config).json["embedder.threads"]["value"] == found["chosen"]["threads"]


def test_a_remote_embedder_is_told_where_to_run_it() -> None:
    refused = run("tune", EMBEDDER__URL="http://embedder:8001", status=2)

    assert refused.said("run it on the machine of the embedder").out == ""


def test_what_cannot_be_written_or_read_is_found_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("port = ")
    (tmp_path / "notes.txt").write_text("no image")
    begun = time.monotonic()

    run("tune", "--seconds", "600", "--write", tmp_path / "broken.toml", status=2).said("is not TOML")
    run("tune", "--seconds", "600", "--images", tmp_path, status=2).said("None of the 2 files is an image")

    assert time.monotonic() - begun < 50


def test_ctrl_c_ends_it_and_nothing_is_written(tmp_path: Path) -> None:
    config = tmp_path / "imgsim.toml"
    log = ["--data-dir", tmp_path / "data", "--write", config]
    with start("tune", "--seconds", "600", *log) as process:
        until(lambda: _cpu_seconds(process.pid) > 3, process)  # it computes
        process.send_signal(signal.SIGINT)
        ended = end(process)
    assert (ended.status, ended.out) == (130, "")
    assert not config.exists()


def _cpu_seconds(pid: int) -> float:
    psutil = pytest.importorskip("psutil")
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
