"""``imgsim watch`` in processes of its own, on real folders."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image as Pillow

from tests.e2e.test_cli import QUICK, Ran, command, environment, run, until
from tests.processes import ImgsimServer
from tests.servers import free_port


class Watching:
    def __init__(self, log: Path, process: subprocess.Popen[bytes]) -> None:
        self._log = log
        self.process = process

    @property
    def said(self) -> list[str]:
        return self._log.read_text().splitlines()

    def says(self, *lines: str) -> None:
        until(lambda: set(lines) <= set(self.said), self.process)

    def begins(self, words: str) -> None:
        until(lambda: any(line.startswith(words) for line in self.said), self.process)

    def indexes(self, *paths: Path) -> None:
        self.says(*(f"indexed {path}" for path in paths))

    def stop(self, number: int = signal.SIGINT) -> Ran:
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=60)
        return Ran(self.process.returncode, out, self._log.read_bytes())


@contextmanager
def watching(tmp_path: Path, *arguments: str | Path, ready: bool = True) -> Iterator[Watching]:
    log = tmp_path / "watch.log"
    words = command("watch", "--settle", "0.3", *arguments)
    with log.open("wb") as written:
        process = subprocess.Popen(words, env=environment(QUICK), stdout=subprocess.PIPE, stderr=written)
    try:
        watch = Watching(log, process)
        if ready:
            watch.says("waiting for more")
        yield watch
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (folder := tmp_path / "in").mkdir()
    return folder


def test_what_is_there_and_what_comes_in_every_way(tmp_path: Path, folder: Path, photos: list[Path]) -> None:
    (folder / "old").mkdir()
    shutil.copy2(photos[0], folder / "old" / "0.jpg")
    (folder / "notes.txt").write_text("no image")
    (outside := tmp_path / "outside" / "deep").mkdir(parents=True)
    shutil.copy2(photos[1], outside / "1.jpg")

    with Pillow.open(photos[0]) as photo:
        photo.load()
    with watching(tmp_path, "--data-dir", tmp_path / "data", "--tag", "seen", folder) as watch:
        watch.indexes(folder / "old" / "0.jpg")
        shutil.copy(photos[2], folder / "copied.jpg")
        shutil.copy(photos[3], folder / ".3.jpg.part")
        (folder / ".3.jpg.part").rename(folder / "renamed.jpg")
        outside.parent.rename(folder / "moved")
        (folder / "a" / "b" / "c").mkdir(parents=True)
        shutil.copy(photos[4], folder / "a" / "b" / "c" / "4.jpg")
        shutil.copy(photos[5], folder / ".hidden.jpg")
        (folder / "cut.jpg").write_bytes(photos[6].read_bytes()[:3000])
        watch.indexes(
            *(folder / name for name in ("copied.jpg", "renamed.jpg", "moved/deep/1.jpg", "a/b/c/4.jpg")),
        )
        watch.begins(f"failed {folder}/cut.jpg: The JPEG image is cut off")
        shutil.copy(photos[6], folder / "cut.jpg")
        watch.indexes(folder / "cut.jpg")
        crops = [folder / "crops" / str(number % 7) / f"{number}.png" for number in range(60)]
        for number, path in enumerate(crops):
            path.parent.mkdir(parents=True, exist_ok=True)
            photo.crop((number, 0, number + 50, 50)).save(path)
        watch.indexes(*crops)
        (folder / "old" / "0.jpg").unlink()
        shutil.copy(photos[2], folder / "same again.jpg")
        shutil.copy(photos[7], folder / "last.jpg")
        watch.indexes(folder / "last.jpg")
        ended = watch.stop()

    assert ended.status == 1  # as one failed
    assert ended.out == "67 indexed, 1 already there, 1 passed over (no images), 1 failed\n"
    assert ".hidden" not in ended.err
    found = run("search", "--data-dir", tmp_path / "data", "--image", photos[0], "--json", EMBEDDER__URL="colour:").json
    assert found["results"][0]["image"]["tags"] == ["seen"]  # also of what was removed


def test_the_server_may_restart_and_nothing_is_left_out_or_doubled(
    tmp_path: Path, folder: Path, photos: list[Path]
) -> None:
    shutil.copy2(photos[0], folder / "0.jpg")
    with ImgsimServer(tmp_path / "data", QUICK, port=free_port()) as server:
        with watching(tmp_path, "--server", server.url, "--collection", "w", folder, "--poll") as watch:
            watch.indexes(folder / "0.jpg")
            server.kill()
            shutil.copy(photos[1], folder / "1.jpg")
            watch.begins("waiting: The server at")
            shutil.copy(photos[2], folder / "2.jpg")
            server.start()
            watch.indexes(folder / "1.jpg", folder / "2.jpg")
            ended = watch.stop()
        assert (ended.status, ended.err.count("waiting: ")) == (0, 1)
        assert len(httpx.get(f"{server.url}/images?collection=w").json()["images"]) == 3
        with watching(tmp_path, "--server", server.url, "--collection", "w", folder, "--json") as again:
            assert '"already_there": 3' in again.stop().out


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    missing = run("watch", "--data-dir", tmp_path / "data", tmp_path / "missing", status=2)
    missing.said("does not exist")
    assert not os.listdir(tmp_path)
