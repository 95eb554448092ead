"""Deletes that meet running jobs and dying servers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.faults.orders import Orders
from tests.faults.remains import read_remains
from tests.faults.user import Upload, User
from tests.faults.waiting import wait_until
from tests.processes import ImgsimServer

STAGES = ("before-embed", "before-index", "after-index")

Start = Callable[..., ImgsimServer]


def objects_of(server: ImgsimServer, upload: Upload) -> list[Path]:
    return [path for path in (server.data_dir / "objects").rglob("*") if upload.id in str(path) and path.is_file()]


def wait_until_erased(server: ImgsimServer, upload: Upload) -> None:
    wait_until(lambda: not objects_of(server, upload), "no file of the image is left")


def delete(user: User, upload: Upload) -> None:
    assert user.http.delete(f"/images/{upload.id}").status_code == 204


def hold(orders: Orders, user: User, photo: Path, stage: str) -> Upload:
    """An upload that the saboteur holds in `stage`."""
    name = f"{photo.stem}.jpg"
    orders.give(stage, name)
    upload = user.upload(photo, name)
    orders.wait_until_obeyed(stage, name)
    return upload


@pytest.mark.parametrize("goes_on", [True, False], ids=["goes on", "hangs"])
def test_an_image_deleted_while_its_job_runs_is_gone_for_good(
    start: Start, orders: Orders, photos: list[Path], goes_on: bool
) -> None:
    server = start(jobs__lease_seconds=1, jobs__reconcile_seconds=0.2)
    user = User(server)
    deleted = [hold(orders, user, photo, stage) for photo, stage in zip(photos, STAGES, strict=False)]
    for upload in deleted:
        delete(user, upload)
        user.assert_invisible(upload)
        assert user.http.delete(f"/images/{upload.id}").status_code == 404
    if goes_on:
        for stage, upload in zip(STAGES, deleted, strict=True):
            orders.withdraw(stage, upload.filename)
    neighbour = user.upload(photos[len(deleted)])
    user.assert_done_once(neighbour)
    for upload in deleted:
        wait_until_erased(server, upload)
        user.assert_invisible(upload)
    wait_until(lambda: user.vectors() == 1, "only the neighbour's vector is left")
    assert server.terminate() == 0
    server.start()
    assert user.vectors() == 1
    assert server.terminate() == 0
    remains = read_remains(server.data_dir)
    assert not any(remains.hold(upload.id) for upload in deleted)


@pytest.mark.parametrize("stage", STAGES)
def test_bytes_deleted_while_their_job_runs_can_be_uploaded_again_at_once(
    start: Start, orders: Orders, photos: list[Path], stage: str
) -> None:
    server = start(jobs__lease_seconds=1, jobs__reconcile_seconds=0.2)
    user = User(server)
    old = hold(orders, user, photos[0], stage)
    delete(user, old)
    new = user.upload(photos[0], "again.jpg")
    assert new.id != old.id
    user.assert_done_once(new)
    orders.withdraw(stage, old.filename)
    wait_until_erased(server, old)
    wait_until(lambda: user.vectors() == 1, "one vector is left")
    user.assert_done_once(new)
    user.assert_invisible(old)


def test_a_kill_right_after_the_answer_to_a_delete_leaves_no_trace(
    start: Start, orders: Orders, photos: list[Path]
) -> None:
    server = start()
    user = User(server)
    finished = user.upload(photos[0])
    user.wait_for_state(finished, "done")
    running = [hold(orders, user, photo, stage) for photo, stage in zip(photos[1:], STAGES, strict=False)]
    deleted = [*running, finished]
    for upload in deleted:
        delete(user, upload)
    server.kill()
    server.start()  # the saboteur would still hold a job that ran again
    for upload in deleted:
        user.assert_invisible(upload)
        wait_until_erased(server, upload)
    user.assert_done_once(user.upload(photos[len(deleted)]))
    assert user.vectors() == 1
    assert server.terminate() == 0
    remains = read_remains(server.data_dir)
    assert not any(remains.hold(upload.id) for upload in deleted)


def test_a_kill_amid_many_deletes_leaves_each_image_whole_or_gone(start: Start, photos: list[Path]) -> None:
    server = start()
    user = User(server)
    uploads = [user.upload(photo) for photo in photos[:24]]
    for upload in uploads:
        user.wait_for_state(upload, "done")

    def try_to_delete(upload: Upload) -> bool:
        try:
            return user.http.delete(f"/images/{upload.id}").status_code == 204
        except httpx.TransportError:
            return False
        finally:
            if upload is uploads[8]:
                server.kill()

    with ThreadPoolExecutor(4) as deleting:
        answered = list(deleting.map(try_to_delete, uploads))
    server.start()
    left = []
    for upload, gone in zip(uploads, answered, strict=True):
        if gone or user.http.get(f"/images/{upload.id}").status_code == 404:
            user.assert_invisible(upload)
        else:
            user.assert_done_once(upload)
            left.append(upload.id)
    wait_until(lambda: user.vectors() == len(left), "every vector has an image")
    assert server.terminate() == 0
    remains = read_remains(server.data_dir)
    assert {str(image_id) for image_id in remains.objects} == set(left)
    assert remains.vectors == remains.states.keys() == remains.objects
    assert not remains.tombstones


def test_an_image_deleted_while_it_waits_leaves_no_trace(start: Start, orders: Orders, photos: list[Path]) -> None:
    server = start(jobs__concurrency=1, jobs__reconcile_seconds=0.2)
    user = User(server)
    first = hold(orders, user, photos[0], "before-embed")
    waiting = user.upload(photos[1])
    delete(user, waiting)
    user.assert_invisible(waiting)
    assert not objects_of(server, waiting)
    orders.withdraw("before-embed", first.filename)
    user.assert_done_once(first)
    assert user.vectors() == 1
    assert server.terminate() == 0
    assert not read_remains(server.data_dir).hold(waiting.id)
