"""Uploads without pause while the server is killed again and again: ``python -m tests.faults.soak --kills 20``.

Eight clients upload photographs, each made distinct, and repeat what was not answered, as clients do. At
random moments the server gets kill -9 and is started again. At the end nothing that was acknowledged may be
missing, and nothing may be there twice.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import httpx

from tests.faults.clients import Clients
from tests.faults.remains import read_remains
from tests.faults.user import User
from tests.faults.waiting import wait_until
from tests.processes import ImgsimServer

_SOONEST_KILL = 0.3
_SECONDS_TO_REST = 600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    acknowledged: int
    """Uploads that were answered 202, or 200 after one whose answer the kill cut off."""
    done: int
    error: int
    lost: int
    """Acknowledged, but unknown, not done, not found by search or not the bytes that were sent."""
    doubled: int
    """Vectors beyond the images that are done, and images that a search by their bytes finds beside their own."""
    unacknowledged: int
    """Rows of uploads whose answer the kill cut off, and which no client repeated."""
    orphan_objects: int
    """Files without a row."""
    orphan_vectors: int
    """Vectors without a row that is done."""
    temporaries: int

    @property
    def passed(self) -> bool:
        return not (self.lost or self.doubled)


def run(
    folder: Path,
    photos: Sequence[Path],
    kills: int,
    seconds: float,
    clients: int = 8,
    seed: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Kill the server `kills` times, each 0.3 to `seconds` after it was ready; return what was found at rest."""
    chance = random.Random(seed)
    server = ImgsimServer(folder / "data")
    with server:
        uploading = Clients(server, photos, clients)
        user = User(server)
        say("kill  after s  acknowledged  waiting  in flight  ready again s")
        for kill in range(1, kills + 1):
            pause = chance.uniform(_SOONEST_KILL, max(seconds, _SOONEST_KILL))
            time.sleep(pause)  # the moment must have nothing to do with what the server does
            waiting, in_flight = _look(server, user)
            server.kill()
            acknowledged = len(uploading.acknowledged)
            started = time.monotonic()
            server.start()
            ready = time.monotonic() - started
            say(f"{kill:4}  {pause:7.2f}  {acknowledged:12}  {waiting:7.0f}  {in_flight:9.0f}  {ready:13.2f}")
        uploading.stop()
        wait_until(lambda: _unfinished(user) == 0, "every image is at rest", _SECONDS_TO_REST)
        return _judge(server, uploading)


def _look(server: ImgsimServer, user: User) -> tuple[float, float]:
    """How many images wait, and how many are being worked on. RuntimeError for a server that ended by itself."""
    try:
        waiting = user.figure(r'imgsim_images\{state="(?:created|pending)"\}')
        return waiting, user.figure(r'imgsim_images\{state="(?:embedding|indexing)"\}')
    except httpx.TransportError as error:
        end, log = server.process.poll(), server.log.read_text()[-4000:]
        raise RuntimeError(f"The server at {server.url} does not answer (exit status {end}):\n{log}") from error


def _unfinished(user: User) -> float:
    return user.figure(r'imgsim_images\{state="(?:created|pending|embedding|indexing)"\}')


def _judge(server: ImgsimServer, clients: Clients) -> Outcome:
    user = User(server)
    looks = clients.look()
    vectors, done = user.vectors(), int(user.figure(r'imgsim_images\{state="done"\}'))
    assert server.terminate() == 0
    remains = read_remains(server.data_dir)
    ids = {image_id for image_id, _, _, _ in clients.acknowledged}
    return Outcome(
        acknowledged=len(clients.acknowledged),
        done=sum(look.state == "done" for look in looks),
        error=sum(look.state == "error" for look in looks),
        lost=sum(not look.intact for look in looks),
        doubled=max(vectors - done, 0) + sum(look.others for look in looks) + len(clients.acknowledged) - len(ids),
        unacknowledged=sum(str(image_id) not in ids for image_id in remains.states),
        orphan_objects=len(remains.orphan_objects),
        orphan_vectors=len(remains.orphan_vectors),
        temporaries=remains.temporaries,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="latest kill after the server is ready")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    photos = sorted((Path(__file__).parents[1] / "data" / "classes").rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(
            Path(folder),
            photos,
            options.kills,
            options.seconds,
            options.clients,
            options.seed,
            lambda line: print(line, flush=True),
        )
    print()
    for figure in fields(outcome):
        print(f"{figure.name.replace('_', ' '):16} {getattr(outcome, figure.name):8}")
    print("passed" if outcome.passed else "FAILED")
    return 0 if outcome.passed else 1


if __name__ == "__main__":
    sys.exit(main())
