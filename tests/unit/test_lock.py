"""One process owns a data directory."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imgsim.adapters.lock import DataDirectoryLock
from imgsim.core.errors import DataDirectoryInUse, SettingsError

HOLD = """
import sys
from pathlib import Path
from imgsim.adapters.lock import DataDirectoryLock
with DataDirectoryLock(Path(sys.argv[1])) as lock:
    lock.note("http://127.0.0.1:4711")
    print("held", flush=True)
    sys.stdin.read()
"""


def refusal(data_dir: Path) -> str:
    with pytest.raises(DataDirectoryInUse) as raised, DataDirectoryLock(data_dir):
        pass
    return raised.value.message


def test_the_folder_is_made_with_all_above_it(tmp_path: Path) -> None:
    with DataDirectoryLock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()


def test_the_second_one_is_told_who_holds_it_and_what_to_do(tmp_path: Path) -> None:
    with DataDirectoryLock(tmp_path):
        message = refusal(tmp_path)

    assert message == (
        f"The data directory {tmp_path} is in use by another imgsim (pid {os.getpid()}). "
        "Stop it first, or use another --data-dir."
    )


def test_the_second_one_is_told_where_the_holder_serves(tmp_path: Path) -> None:
    with DataDirectoryLock(tmp_path) as lock:
        lock.note("http://127.0.0.1:8000")

        assert "use --server http://127.0.0.1:8000." in refusal(tmp_path)


def test_a_refusal_takes_nothing_from_the_holder(tmp_path: Path) -> None:
    with DataDirectoryLock(tmp_path):
        assert refusal(tmp_path) == refusal(tmp_path)


def test_it_is_free_again_afterwards(tmp_path: Path) -> None:
    lock = DataDirectoryLock(tmp_path)
    for _ in range(2):
        with lock:
            pass
    with DataDirectoryLock(tmp_path):
        pass


def test_it_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), DataDirectoryLock(tmp_path):
        raise ZeroDivisionError
    with DataDirectoryLock(tmp_path):
        pass


def test_another_folder_is_another_lock(tmp_path: Path) -> None:
    with DataDirectoryLock(tmp_path / "a"), DataDirectoryLock(tmp_path / "b"):
        pass


def test_another_process_holds_it_until_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert f"(pid {holder.pid}). It serves at http://127.0.0.1:4711" in refusal(tmp_path)
        holder.send_signal(signal.SIGKILL)
    with DataDirectoryLock(tmp_path):
        assert f"(pid {os.getpid()})" in refusal(tmp_path), "what the dead one noted is forgotten"


def test_whatever_the_file_holds_the_refusal_is_a_sentence(tmp_path: Path) -> None:
    for noted in ("", "{", "[1]", '{"pid": null}'):
        with DataDirectoryLock(tmp_path):
            (tmp_path / "imgsim.lock").write_text(noted)
            assert refusal(tmp_path).startswith(f"The data directory {tmp_path} is in use by another imgsim. Stop it")


def test_a_folder_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(SettingsError, match=r"The data directory .*file/data cannot be used: Not a directory\."):
        DataDirectoryLock(tmp_path / "file" / "data").__enter__()
