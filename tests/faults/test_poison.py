"""Images that are the end of whatever touches them, among others that are well."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.faults.orders import Orders
from tests.faults.user import Upload, User
from tests.processes import ImgsimServer

Start = Callable[..., ImgsimServer]


def assert_well(user: User) -> None:
    """The process and all its parts say that they are well."""
    assert user.http.get("/health").status_code == 200
    ready = user.http.get("/ready")
    assert ready.status_code == 200, ready.text


def outlives(server: ImgsimServer, user: User, poison: Upload) -> bool:
    """Whether the server lives until the poison is at rest."""
    while server.process.poll() is None:
        try:
            if user.image(poison)["state"] == "error":
                return True
        except httpx.TransportError:
            server.process.wait(10)
    return False


@pytest.mark.parametrize("stage", ["before-embed", "after-index"])
def test_an_image_that_kills_the_process_rests_in_error_and_its_neighbours_are_done(
    start: Start, orders: Orders, photos: list[Path], stage: str
) -> None:
    server = start(jobs__max_attempts=3)
    user = User(server)
    names = [f"{number}.jpg" for number in range(6)]
    for name in names:
        orders.give(stage, name)
    uploads = [user.upload(photo, name) for photo, name in zip(photos, names, strict=False)]
    for name in names:  # all of them are being worked on when one of them strikes
        orders.wait_until_obeyed(stage, name)
    orders.give(stage, names[2], "exit")
    assert server.process.wait(10) == 70
    poison, neighbours = uploads[2], uploads[:2] + uploads[3:]
    for upload in neighbours:
        orders.withdraw(stage, upload.filename)
    for _ in range(2):
        server.start()
        assert not outlives(server, user, poison)
    server.start()
    assert outlives(server, user, poison)
    image = user.image(poison)
    assert image["attempts"] == 3
    assert image["error"]["type"] == "worker-lost"
    assert image["error"]["stage"] == stage
    assert "3 attempts" in image["error"]["message"]
    for upload in neighbours:
        user.assert_done_once(upload)
    assert_well(user)

    orders.withdraw(stage, poison.filename)
    assert user.http.post(f"/images/{poison.id}/retry").status_code == 202
    user.assert_done_once(poison)
    assert user.vectors() == len(uploads)


@pytest.mark.parametrize(
    ("word", "error_type", "said"),
    [
        ("raise", "stage-failed", "sabotaged"),
        ("hang", "timeout", "took longer than 1 s"),
        ("rubbish", "stage-failed", "JSON"),
    ],
)
def test_a_stage_that_fails_on_an_image_fails_that_one_alone(
    start: Start, orders: Orders, photos: list[Path], word: str, error_type: str, said: str
) -> None:
    server = start(
        jobs__max_attempts=2, jobs__backoff_seconds=0.1, jobs__reconcile_seconds=0.1, pipeline__timeout_seconds=1
    )
    user = User(server)
    stages = ("before-embed", "after-index")
    for stage in stages:
        orders.give(stage, f"{stage}.jpg", word)
    poisons = [user.upload(photo, f"{stage}.jpg") for photo, stage in zip(photos, stages, strict=False)]
    neighbours = [user.upload(photo) for photo in photos[2:7]]
    for upload in neighbours:
        user.assert_done_once(upload)
    for upload, stage in zip(poisons, stages, strict=True):
        image = user.wait_until_at_rest(upload)
        assert image["state"] == "error"
        assert image["attempts"] == orders.obeyed(stage, upload.filename) == 2
        assert (image["error"]["type"], image["error"]["stage"]) == (error_type, stage)
        assert said in image["error"]["message"]
    assert_well(user)

    for upload, stage in zip(poisons, stages, strict=True):
        orders.withdraw(stage, upload.filename)
        assert user.http.post(f"/images/{upload.id}/retry").status_code == 202
        user.assert_done_once(upload)
    assert user.vectors() == 7


def test_images_that_hang_in_every_slot_do_not_stop_the_others_for_good(
    start: Start, orders: Orders, photos: list[Path]
) -> None:
    server = start(jobs__max_attempts=1, jobs__concurrency=2, pipeline__timeout_seconds=1)
    user = User(server)
    for name in ("one.jpg", "two.jpg"):
        orders.give("before-embed", name, "hang")
    hanging = [user.upload(photo, name) for photo, name in zip(photos, ("one.jpg", "two.jpg"), strict=False)]
    user.assert_done_once(user.upload(photos[2]))
    for upload in hanging:
        assert user.wait_until_at_rest(upload)["error"]["type"] == "timeout"
    assert_well(user)


def test_a_stage_that_blocks_the_event_loop_longer_than_the_lease_costs_no_attempt(
    start: Start, orders: Orders, photos: list[Path]
) -> None:
    server = start(jobs__lease_seconds=1, jobs__reconcile_seconds=0.1, jobs__max_attempts=1)
    user = User(server)
    orders.give("before-embed", "blocking.jpg", "block")
    orders.give("before-index", "held.jpg")
    held = user.upload(photos[0], "held.jpg")
    orders.wait_until_obeyed("before-index", "held.jpg")
    blocking = user.upload(photos[1], "blocking.jpg")
    neighbours = [user.upload(photo) for photo in photos[2:6]]
    orders.wait_until_obeyed("before-embed", "blocking.jpg")
    orders.withdraw("before-index", "held.jpg")
    for upload in (held, blocking, *neighbours):
        user.assert_done_once(upload)
        assert user.image(upload)["attempts"] == 1
    assert_well(user)
