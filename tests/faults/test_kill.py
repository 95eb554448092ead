"""kill -9 of a whole server, at every moment in the life of an image."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults import soak
from tests.faults.orders import Orders
from tests.faults.remains import read_remains, set_state
from tests.faults.user import Upload, User
from tests.processes import ImgsimServer

HELD = {"before-embed": "pending", "before-index": "embedding", "after-index": "indexing"}
"""Which state an image is in while the saboteur holds it in a stage."""

STATES = ("created", "queued", *HELD.values(), "done")


@dataclass
class Killed:
    server: ImgsimServer
    uploads: dict[str, Upload]
    """By the state that the upload was in when the server was killed."""


@pytest.fixture(scope="module")
def killed(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    """A server that was killed with one acknowledged image in each state, and runs again."""
    folder = tmp_path_factory.mktemp("killed")
    orders = Orders(folder)
    environment = {**orders.environment, "IMGSIM_JOBS__CONCURRENCY": str(len(HELD))}
    with ImgsimServer(folder / "data", environment) as server:
        user, photo = User(server), iter(photos)
        uploads = {}
        for stage, state in HELD.items():
            orders.give(stage, f"{state}.jpg")
        # First, while there is still room for its job.
        finished = user.upload(next(photo), "done.jpg")
        user.wait_for_state(finished, "done")
        for stage, state in HELD.items():
            uploads[state] = user.upload(next(photo), f"{state}.jpg")
            orders.wait_until_obeyed(stage, f"{state}.jpg")
            assert user.image(uploads[state])["state"] == state
        for state in ("created", "queued"):  # all slots are taken
            uploads[state] = user.upload(next(photo), f"{state}.jpg")
            assert user.image(uploads[state])["attempts"] == 0
        uploads["done"] = finished
        server.kill()
        set_state(server.data_dir, uploads["created"].id, "created")
        for stage, state in HELD.items():
            orders.withdraw(stage, f"{state}.jpg")
        server.start()
        yield Killed(server, uploads)


@pytest.mark.parametrize("state", STATES)
def test_an_acknowledged_image_is_done_once_after_a_kill_in_any_state(killed: Killed, state: str) -> None:
    User(killed.server).assert_done_once(killed.uploads[state])


def test_a_kill_costs_only_those_an_attempt_that_were_worked_on(killed: Killed) -> None:
    user = User(killed.server)
    attempts = {state: user.wait_until_at_rest(upload)["attempts"] for state, upload in killed.uploads.items()}
    assert attempts == {"created": 1, "queued": 1, "pending": 2, "embedding": 2, "indexing": 2, "done": 1}


def test_after_a_kill_the_index_holds_every_image_exactly_once(killed: Killed) -> None:
    user = User(killed.server)
    for upload in killed.uploads.values():
        user.wait_until_at_rest(upload)
    assert user.vectors() == len(killed.uploads)
    assert killed.server.terminate() == 0
    remains = read_remains(killed.server.data_dir)
    killed.server.start()
    assert set(remains.states.values()) == {"done"}
    assert remains.vectors == remains.states.keys() == remains.objects
    assert not remains.tombstones


def test_a_kill_right_after_done_takes_nothing_back(start: Callable[..., ImgsimServer], photos: list[Path]) -> None:
    server = start()
    user = User(server)
    uploads = [user.upload(photo) for photo in photos[:8]]
    user.wait_for_state(uploads[-1], "done")
    server.kill()
    server.start()
    for upload in uploads:
        user.assert_done_once(upload)
    assert user.vectors() == len(uploads)


def test_an_upload_cut_off_by_a_kill_leaves_nothing(start: Callable[..., ImgsimServer], photos: list[Path]) -> None:
    server = start()
    user = User(server)
    whole = user.upload(photos[0])
    with half_an_upload(user, photos[1]):
        server.kill()
    server.start()
    user.assert_done_once(whole)
    again = user.upload(photos[1])
    user.assert_done_once(again)
    assert server.terminate() == 0
    remains = read_remains(server.data_dir)
    assert {str(image_id) for image_id in remains.objects} == {whole.id, again.id}
    assert remains.temporaries == 0


def half_an_upload(user: User, photo: Path) -> socket.socket:
    """A connection over which half of an upload has gone."""
    request = user.http.build_request("POST", "/images/upload", files={"file": photo.read_bytes()})
    body = request.read()
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    head = "\r\n".join(["POST /images/upload HTTP/1.1", *lines, "", ""]).encode()
    connection = socket.create_connection((request.url.host, request.url.port))
    connection.sendall(head + body[: len(body) // 2])
    return connection


def test_a_server_killed_while_it_starts_loses_nothing(
    start: Callable[..., ImgsimServer], orders: Orders, photos: list[Path]
) -> None:
    server = start()
    user = User(server)
    orders.give("before-index", "restless.jpg")
    upload = user.upload(photos[0], "restless.jpg")
    for times in (1, 2):
        orders.wait_until_obeyed("before-index", "restless.jpg", times)
        server.kill()
        server.start()
    orders.withdraw("before-index", "restless.jpg")
    user.assert_done_once(upload)


def test_soak_small(tmp_path: Path, photos: list[Path]) -> None:
    outcome = soak.run(tmp_path, photos, kills=3, seconds=0.8, clients=8)
    assert outcome.acknowledged > 0
    assert (outcome.lost, outcome.doubled, outcome.error) == (0, 0, 0), outcome
