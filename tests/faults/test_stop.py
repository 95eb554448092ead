"""Stopping a server that has work, and work that outlasts its lease or its disk."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.faults.orders import Orders
from tests.faults.user import Upload, User
from tests.faults.waiting import wait_until
from tests.processes import ImgsimServer

Start = Callable[..., ImgsimServer]


def hold(orders: Orders, user: User, photo: Path) -> Upload:
    """An upload that the saboteur holds between embed and index."""
    orders.give("before-index", "held.jpg")
    upload = user.upload(photo, "held.jpg")
    orders.wait_until_obeyed("before-index", "held.jpg")
    return upload


def test_a_stop_under_load_is_clean_and_loses_nothing(start: Start, photos: list[Path]) -> None:
    server = start(jobs__drain_seconds=5, jobs__max_attempts=1)
    user = User(server)
    acknowledged: list[Upload] = []
    enough = threading.Event()

    def upload_some(number: int) -> None:
        with suppress(httpx.TransportError):
            for photo in photos[number::4]:
                acknowledged.append(user.upload(photo))
                if len(acknowledged) > 20:
                    enough.set()

    with ThreadPoolExecutor(4) as clients:
        for number in range(4):
            clients.submit(upload_some, number)
        assert enough.wait(30)
        started = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - started < 10
    server.start()
    for upload in acknowledged:
        user.assert_done_once(upload)
        assert user.image(upload)["attempts"] <= 2


def test_a_stopping_server_finishes_what_it_works_on(start: Start, orders: Orders, photos: list[Path]) -> None:
    server = start()
    user = User(server)
    upload = hold(orders, user, photos[0])
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: b"finishing 1 images" in server.log.read_bytes(), "the server drains")
    orders.withdraw("before-index", "held.jpg")
    assert server.process.wait(10) == 0
    server.start()
    assert user.image(upload)["state"] == "done"
    user.assert_done_once(upload)
    assert user.image(upload)["attempts"] == 1


def test_a_clean_stop_uses_up_no_attempt(start: Start, orders: Orders, photos: list[Path]) -> None:
    server = start(jobs__drain_seconds=0.1, jobs__max_attempts=1)
    user = User(server)
    upload = hold(orders, user, photos[0])
    assert server.terminate(10) == 0
    server.start()
    orders.wait_until_obeyed("before-index", "held.jpg", 2)
    orders.withdraw("before-index", "held.jpg")
    user.assert_done_once(upload)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_wait_for_running_images_without_loss(
    start: Start, orders: Orders, photos: list[Path], second: signal.Signals
) -> None:
    server = start(jobs__max_attempts=1)
    user = User(server)
    upload = hold(orders, user, photos[0])
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: b"finishing 1 images" in server.log.read_bytes(), "the server drains")
    server.process.send_signal(second)
    server.process.wait(5)
    orders.withdraw("before-index", "held.jpg")
    server.start()
    user.assert_done_once(upload)


def test_a_job_longer_than_its_lease_runs_once(start: Start, orders: Orders, photos: list[Path]) -> None:
    server = start(jobs__lease_seconds=1, jobs__reconcile_seconds=0.1)
    user = User(server)
    orders.give("before-index", "long.jpg", "long")
    upload = user.upload(photos[0], "long.jpg")
    user.assert_done_once(upload)
    assert user.image(upload)["attempts"] == 1
    assert orders.obeyed("before-index", "long.jpg") == 1


def test_a_process_that_slept_longer_than_its_leases_goes_on_where_it_was(
    start: Start, orders: Orders, photos: list[Path]
) -> None:
    server = start(jobs__lease_seconds=1, jobs__reconcile_seconds=0.1, jobs__max_attempts=1)
    user = User(server)
    upload = hold(orders, user, photos[0])
    server.process.send_signal(signal.SIGSTOP)  # as a closed laptop does
    time.sleep(1.5)  # the lease must run out, and time is all there is to wait for
    server.process.send_signal(signal.SIGCONT)
    orders.withdraw("before-index", "held.jpg")
    user.assert_done_once(upload)
    assert user.image(upload)["attempts"] == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that can be filled, with room beyond what the vector index keeps free."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_refuses_uploads_and_recovers_by_itself(small_disk: Path, photos: list[Path]) -> None:
    with ImgsimServer(small_disk / "data") as server:
        user = User(server)
        before = user.upload(photos[0])
        user.assert_done_once(before)
        fill(small_disk / "filler")
        wait_until(lambda: user.http.get("/ready").status_code == 503, "the server says that it is not ready")
        refused = user.http.post("/images/upload", files={"file": photos[1].read_bytes()})
        assert refused.status_code == 503
        assert refused.headers["Retry-After"]
        assert "disk is full" in refused.json()["detail"]
        change = {"metadata": {"more": "than one page of the database has room for" * 1000}}
        refused = user.http.patch(f"/images/{before.id}", json=change)
        assert refused.status_code == 503
        assert "disk is full" in refused.json()["detail"]
        assert user.http.get("/health").status_code == 200
        assert user.hits(before) == [before.id]
        (small_disk / "filler").unlink()
        wait_until(lambda: user.http.get("/ready").status_code == 200, "the server is ready again")
        assert user.http.patch(f"/images/{before.id}", json=change).status_code == 200
        user.assert_done_once(user.upload(photos[1]))
        assert user.vectors() == 2


def fill(file: Path) -> None:
    """Write until no byte is free."""
    with suppress(OSError), file.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(1 << 16))
    with suppress(OSError), file.open("ab", buffering=0) as out:
        while True:
            out.write(b".")
