"""When a file that is being written is taken."""

import os
import time
from pathlib import Path

import pytest

from imgsim.sources.resting import Resting, is_hidden


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def resting(clock: Clock) -> Resting:
    return Resting(1.0, clock)


def later(resting: Resting, clock: Clock, seconds: float, *changed: Path) -> list[Path]:
    clock.now += seconds
    return sorted(resting.rested(changed))


def test_a_file_that_grows_is_taken_when_it_stops(tmp_path: Path, resting: Resting, clock: Clock) -> None:
    path = tmp_path / "slow.jpg"
    for size in range(1, 20):  # for many times as long as a file must rest
        path.write_bytes(b"x" * size)
        assert later(resting, clock, 0.9, path) == []
    assert later(resting, clock, 0.5) == []
    assert later(resting, clock, 0.6) == [path]
    assert later(resting, clock, 5, path) == []
    assert later(resting, clock, 5) == []  # told of again, but the same
    assert len(resting) == 0


def test_growth_that_nobody_tells_of_is_seen(tmp_path: Path, resting: Resting, clock: Clock) -> None:
    (path := tmp_path / "a.jpg").write_bytes(b"1")
    later(resting, clock, 0, path)
    path.write_bytes(b"12")
    assert later(resting, clock, 1.5) == []
    assert later(resting, clock, 1.5) == [path]


def test_what_is_replaced_or_gone(tmp_path: Path, resting: Resting, clock: Clock) -> None:
    (path := tmp_path / "a.jpg").write_bytes(b"1")
    (gone := tmp_path / "b.jpg").write_bytes(b"1")
    later(resting, clock, 0, path, gone)
    gone.unlink()
    assert later(resting, clock, 1) == [path]

    (fresh := tmp_path / ".a.jpg.tmp").write_bytes(b"2")
    os.utime(fresh, ns=(path.stat().st_mtime_ns, path.stat().st_mtime_ns))
    fresh.replace(path)  # same size and time
    later(resting, clock, 0, path)
    assert later(resting, clock, 1) == [path]


def test_a_folder_that_comes_brings_what_is_in_it_once(tmp_path: Path, resting: Resting, clock: Clock) -> None:
    (folder := tmp_path / "new" / "below").mkdir(parents=True)
    (folder / "a.jpg").touch()
    (folder / ".hidden.jpg").touch()
    later(resting, clock, 0, tmp_path / "new")
    (folder / "late.jpg").touch()  # before the system tells of what is in there

    taken = later(resting, clock, 1)
    for _ in range(4):
        taken += later(resting, clock, 1)
    assert taken == [folder / "a.jpg", folder / "late.jpg"]


def test_at_the_start_only_what_was_just_written_has_to_rest(tmp_path: Path, resting: Resting, clock: Clock) -> None:
    (old := tmp_path / "old.jpg").write_bytes(b"1")
    os.utime(old, (time.time() - 60, time.time() - 60))
    (new := tmp_path / "new.jpg").write_bytes(b"1")
    (ahead := tmp_path / "ahead.jpg").write_bytes(b"1")
    os.utime(ahead, (time.time() + 9999, time.time() + 9999))  # a clock that is wrong

    assert [resting.is_old(path) for path in (old, new, ahead)] == [True, False, False]
    later(resting, clock, 0, old)
    assert later(resting, clock, 1) == [ahead, new]


def test_pipes_are_left_alone(tmp_path: Path, resting: Resting, clock: Clock) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert later(resting, clock, 0, tmp_path / "pipe.jpg") == []
    assert len(resting) == 0


@pytest.mark.parametrize(
    ("path", "hidden"),
    [("/.home/in/a.jpg", False), ("/.home/in/.a.jpg", True), ("/.home/in/.git/a.jpg", True), ("/.home/in/b/c", False)],
)
def test_hidden_is_what_is_hidden_below_the_folder(path: str, hidden: bool) -> None:
    assert is_hidden(Path(path), [Path("/.home/in")]) is hidden
