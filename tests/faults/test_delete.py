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


def delete(user: User, upload: Upload) -> None:
    assert user.http.delete(f"/images/{upload.id}").status_code == 204


def hold(orders: Orders, user: User, photo: Path, stage: str) -> Upload:
    """An upload that the saboteur holds in `stage`."""
    name = f"{photo.stem}.jpg"
    orders.give(stage, name)
    upload = user.upload(photo, name)
    orders.wait_until_obeyed(stage, name)
    return upload


@pytest.mark.parametrize("stage", STAGES)
def test_an_image_deleted_while_its_job_runs_is_gone_for_good(
    start: Start, orders: Orders, photos: list[Path], stage: str
) -> None:
    server = start(jobs__lease_seconds=1, jobs__reconcile_seconds=0.2)
    user = User(server)
    running, stuck = (hold(orders, user, photo, stage) for photo in photos[:2])
    for upload in (running, stuck):
        delete(user, upload)
        user.assert_invisible(upload)
        assert user.http.delete(f"/images/{upload.id}").status_code == 404
    orders.withdraw(stage, running.filename)  # this job goes on, the other is still held
    neighbour = user.upload(photos[2])
    user.assert_done_once(neighbour)
    for upload in (running, stuck):
        wait_until(lambda upload=upload: not objects_of(server, upload), "its object is gone")
        user.assert_invisible(upload)
    wait_until(lambda: user.vectors() == 1, "only the neighbour's vector is left")
    assert server.terminate() == 0
    server.start()
    assert user.vectors() == 1
    assert server.terminate() == 0
    remains = read_remains(server.data_dir)
    assert not remains.hold(running.id)
    assert not remains.hold(stuck.id)


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
    wait_until(lambda: not objects_of(server, old), "the old object is gone")
    wait_until(lambda: user.vectors() == 1, "one vector is left")
    user.assert_done_once(new)
    user.assert_invisible(old)


@pytest.mark.parametrize("stage", [*STAGES, "done"])
def test_a_kill_right_after_the_answer_to_a_delete_leaves_no_trace(
    start: Start, orders: Orders, photos: list[Path], stage: str
) -> None:
    server = start()
    user = User(server)
    if stage == "done":
        upload = user.upload(photos[0])
        user.wait_for_state(upload, "done")
    else:
        upload = hold(orders, user, photos[0], stage)
    delete(user, upload)
    server.kill()
    if stage != "done":
        orders.withdraw(stage, upload.filename)
    server.start()
    user.assert_invisible(upload)
    # Whatever was left is removed before anything that is uploaded now is done.
    user.assert_done_once(user.upload(photos[1]))
    assert user.vectors() == 1
    assert not objects_of(server, upload)
    assert server.terminate() == 0
    assert not read_remains(server.data_dir).hold(upload.id)


def test_a_kill_amid_many_deletes_leaves_each_image_whole_or_gone(start: Start, photos: list[Path]) -> None:
    server = start()
    user = User(server)
    uploads = [user.upload(photo) for photo in photos[:40]]
    for upload in uploads:
        user.wait_for_state(upload, "done")

    def try_to_delete(upload: Upload) -> bool:
        try:
            return user.http.delete(f"/images/{upload.id}").status_code == 204
        except httpx.TransportError:
            return False
        finally:
            if upload is uploads[15]:
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
