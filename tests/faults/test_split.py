"""Faults of a split deployment. ``python -m tests.faults.table`` breaks the servers too, and takes longer."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.faults import table
from tests.faults.orders import Orders
from tests.faults.user import User
from tests.processes import ImgsimServer

Start = Callable[..., Cluster]


@pytest.fixture
def start_cluster(tmp_path: Path, orders: Orders) -> Iterator[Start]:
    """``start_cluster(workers=1, jobs__lease_seconds=1)``: a cluster that runs, with the saboteur in it."""
    with ExitStack() as running:

        def start(workers: int = 2, **settings: object) -> Cluster:
            return running.enter_context(Cluster(tmp_path, workers, orders.environment, **settings))

        yield start


@contextmanager
def restarting(server: ImgsimServer) -> Iterator[Callable[[], int]]:
    """Starts `server` again whenever it ends, as an orchestrator does; tells how often it did."""
    over, times = threading.Event(), 0

    def watch() -> None:
        nonlocal times
        while not over.wait(0.05):
            if server.process.poll() is not None:
                times += 1
                server.start()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: times
    finally:
        over.set()
        watcher.join()


@pytest.mark.parametrize("word", ["exit", "eat"])
def test_an_image_that_kills_its_worker_rests_in_error_and_all_others_are_done(
    start_cluster: Start, orders: Orders, photos: list[Path], word: str
) -> None:
    cluster = start_cluster(
        workers=1, jobs__lease_seconds=1, jobs__reconcile_seconds=0.2, jobs__max_attempts=3, jobs__backoff_seconds=0.1
    )
    user = User(cluster.api)
    orders.give("before-index", "poison.jpg", word)
    names = [f"{number}.jpg" for number in range(12)]
    names[5] = "poison.jpg"
    with restarting(cluster.workers[0]) as deaths:
        uploads = [user.upload(photo, name) for photo, name in zip(photos, names, strict=False)]
        for upload in uploads:
            image = user.wait_until_at_rest(upload)
            if upload.filename == "poison.jpg":
                assert image["state"] == "error", image
                assert image["error"]["type"] == "worker-lost"
                assert orders.obeyed("before-index", "poison.jpg") == 3
            else:
                assert image["state"] == "done", image
    assert deaths() == 3
    orders.withdraw("before-index", "poison.jpg")
    assert user.http.post(f"/images/{uploads[5].id}/retry").status_code == 202
    user.assert_done_once(uploads[5])
    assert user.vectors() == len(uploads)


def test_workers_take_nothing_while_a_part_is_away_and_resume_alone(
    start_cluster: Start, orders: Orders, photos: list[Path]
) -> None:
    cluster = start_cluster(workers=1, jobs__lease_seconds=2, jobs__reconcile_seconds=0.2, jobs__max_attempts=2)
    user = User(cluster.api)
    cluster.embedder.kill()
    uploads = [user.upload(photo) for photo in photos[:6]]
    time.sleep(3)
    ready = user.http.get("/ready")
    assert (ready.status_code, ready.json()["checks"]["database"]) == (503, "ok")
    assert "embedder" in [part for part, answer in ready.json()["checks"].items() if answer != "ok"]
    assert all(user.image(upload)["state"] != "error" for upload in uploads)
    claims = sum(user.image(upload)["attempts"] for upload in uploads)
    assert claims <= 2 * len(uploads)
    cluster.embedder.start()
    for upload in uploads:
        user.assert_done_once(upload)
    assert user.http.get("/ready").status_code == 200


def test_uploads_are_taken_while_redis_is_down_and_finish_when_it_returns(
    start_cluster: Start, photos: list[Path]
) -> None:
    cluster = start_cluster(workers=1, jobs__reconcile_seconds=0.2)
    user = User(cluster.api)
    cluster.valkey.kill()
    uploads = []
    for photo in photos[:5]:
        began = time.monotonic()
        uploads.append(user.upload(photo))
        assert time.monotonic() - began < 2
    ready = user.http.get("/ready").json()
    assert ready["checks"]["jobs"] != "ok"
    assert {user.image(upload)["state"] for upload in uploads} == {"created"}
    cluster.valkey.start()
    for upload in uploads:
        user.assert_done_once(upload)


@pytest.mark.parametrize("name", ["worker", "sigterm", "claim"])
def test_the_fault_table(name: str, tmp_path: Path) -> None:
    row = table.run(name, tmp_path)
    assert row.passed, row
