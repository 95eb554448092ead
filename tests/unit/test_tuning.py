"""What ``imgsim tune`` chooses from given figures, and what it writes into a file of settings."""

import stat
import tomllib
from pathlib import Path

import numpy as np
import pytest

from imgsim.core.errors import SettingsError
from imgsim.settings import load_settings
from imgsim.settings_file import overridden, with_chosen, write_chosen
from imgsim.tuning import (
    MARGIN,
    Figures,
    Layout,
    check_tunable,
    choose,
    made_pictures,
    thread_candidates,
)

CHOSEN: dict[str, int | str] = {"threads": 0, "batch": 8, "precision": "int8"}


def compared(*rates: tuple[Layout, float]) -> dict[Layout, Figures]:
    return {layout: Figures(rate, 1.0, 1.0) for layout, rate in rates}


@pytest.mark.parametrize(
    ("cores", "candidates"), [(1, [1]), (2, [1, 2]), (3, [1, 3]), (4, [1, 2, 4]), (64, [1, 32, 64])]
)
def test_threads_are_one_half_and_all_of_the_cores(cores: int, candidates: list[int]) -> None:
    assert thread_candidates(cores) == candidates


def test_the_fastest_is_chosen() -> None:
    assert choose(compared((Layout(1, 4), 50), (Layout(2, 4), 100), (Layout(4, 4), 90))) == Layout(2, 4)


@pytest.mark.parametrize(
    ("simple", "fastest"),
    [
        (Layout(1, 4), Layout(2, 4)),
        (Layout(2, 1), Layout(2, 16)),
        (Layout(2, 16), Layout(2, 1, "int8")),
        (Layout(1, 16), Layout(2, 1)),
    ],
    ids=["threads", "batch", "precision", "threads before batch"],
)
def test_what_is_simpler_and_about_as_fast_goes_before_the_fastest(simple: Layout, fastest: Layout) -> None:
    rate = 100 * (1 - MARGIN)

    assert choose(compared((fastest, 100), (simple, rate + 0.1))) == simple
    assert choose(compared((simple, rate - 0.1), (fastest, 100))) == fastest


def test_the_margin_is_counted_from_the_fastest_and_not_from_neighbour_to_neighbour() -> None:
    figures = compared((Layout(1, 1), 95), (Layout(1, 2), 98), (Layout(1, 4), 100))

    assert choose(figures) == Layout(1, 2)


def test_made_pictures_are_the_same_each_time_and_unlike_each_other() -> None:
    pictures = list(made_pictures())

    assert {(picture.shape, picture.dtype.name) for picture in pictures} == {((480, 640, 3), "uint8")}
    assert len({picture.tobytes() for picture in pictures}) == 16
    assert all(np.array_equal(one, other) for one, other in zip(pictures, made_pictures(), strict=True))


@pytest.mark.parametrize("url", ["http://user:secret@embedder:8001", "https://embedder", "colour:"])
def test_a_model_that_runs_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="run it on the machine of the embedder") as refused:
        check_tunable(load_settings(overrides={"embedder": {"url": url}}, environment=False))
    assert "secret" not in refused.value.message


WHOLE = """# all of it
port = 9000 # mine

[embedder]
model = "ViT-B-32/x.pt"   # ours
threads = 3 # measured by hand

# who rings
[jobs]
concurrency = 8
"""


def test_all_else_in_the_file_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(WHOLE)

    write_chosen(path, CHOSEN)

    assert path.read_text() == WHOLE.replace(
        "threads = 3 # measured by hand\n", 'threads = 0 # measured by hand\nbatch = 8\nprecision = "int8"\n'
    )
    embedder = load_settings(path, environment=False).embedder
    assert (embedder.model, embedder.threads, embedder.batch, embedder.precision) == ("ViT-B-32/x.pt", 0, 8, "int8")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "port = 1",
        "# only a comment\n",
        "[log]\nlevel = 'info'",
        "[embedder]",
        "[embedder]\nbatch = 1",
        "embedder = { batch = 1 }\nport = 1\n",
        "embedder.batch = 1\nport = 1\n",
        "[log]\r\nlevel = 'info'\r\n",
    ],
)
def test_however_the_file_is_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(text.encode())

    write_chosen(path, CHOSEN)

    before, after = tomllib.loads(text), tomllib.loads(path.read_bytes().decode())
    assert after == before | {"embedder": before.get("embedder", {}) | CHOSEN}


def test_a_file_that_is_not_there_is_made(tmp_path: Path) -> None:
    write_chosen(tmp_path / "new.toml", {"threads": 2})

    assert (tmp_path / "new.toml").read_text() == "[embedder]\nthreads = 2\n"


def test_a_file_with_secrets_stays_readable_to_its_owner_alone_and_a_link_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "real.toml", tmp_path / "link.toml"
    path.write_text('[auth]\nkeys = ["k"]\n')
    path.chmod(0o600)
    link.symlink_to(path)

    write_chosen(link, CHOSEN)

    assert link.is_symlink()
    assert tomllib.loads(path.read_text()) == {"auth": {"keys": ["k"]}, "embedder": CHOSEN}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", [b"port = ", b"a = 1\na = 2\n", b"\xff = 1", b"embedder = 3", b"[[embedder]]\na = 1"])
def test_a_file_that_cannot_be_used_is_named_and_left_alone(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(text)

    with pytest.raises(SettingsError, match=r"The settings file .*settings\.toml "):
        write_chosen(path, CHOSEN)
    assert path.read_bytes() == text


def test_a_folder_that_is_not_there_is_an_error_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no folder"):
        with_chosen(tmp_path / "no" / "settings.toml", {})


def test_variables_that_go_before_the_file_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGSIM_EMBEDDER__BATCH", "2")
    monkeypatch.setenv("IMGSIM_EMBEDDER__MODEL", "x")

    assert overridden(CHOSEN) == ["IMGSIM_EMBEDDER__BATCH"]
    assert overridden({"threads": 0}) == []
