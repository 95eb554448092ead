"""Clients that upload without pause, and what became of what they sent."""

import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.faults.user import Upload, User
from tests.processes import ImgsimServer


@dataclass(frozen=True, slots=True)
class Look:
    """What is found of one acknowledged upload when all is at rest."""

    state: str
    intact: bool
    """Done, found by search, and its bytes are those that were sent."""
    others: int
    """How many other images search takes for it, and how often it is found too often."""


@dataclass
class Clients:
    """Upload until told to stop, each upload into a collection of its own."""

    server: ImgsimServer
    photos: Sequence[Path]
    count: int
    pause: float = 0.0
    """Seconds that each rests between two uploads."""
    acknowledged: list[tuple[str, str, int, bytes]] = field(default_factory=list)
    """Id, collection, which photo, and what was appended to it."""
    answers: Counter[str] = field(default_factory=Counter)
    """How often each status was the answer, or ``none``."""
    slowest: float = 0.0
    """Seconds of the slowest answer."""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(self.count)
        self._running = [self._pool.submit(self._upload_on, number) for number in range(self.count)]

    def stop(self) -> None:
        """Let every client have its answer; the server must run."""
        self._stop.set()
        for client in self._running:
            client.result()

    def upload(self, entry: tuple[str, str, int, bytes]) -> Upload:
        image_id, collection, photo, tail = entry
        return Upload(image_id, "", collection, self.photos[photo].read_bytes() + tail)

    def _upload_on(self, client: int) -> None:
        number = 0
        user = User(self.server)
        while not self._stop.is_set():
            number += 1
            photo = (client + number * self.count) % len(self.photos)
            tail, collection = os.urandom(16), f"client-{client}-{number}"  # a decoder ignores what follows the image
            data = self.photos[photo].read_bytes() + tail
            image_id = self._upload(user, collection, data)
            self.acknowledged.append((image_id, collection, photo, tail))
            time.sleep(self.pause)

    def _upload(self, user: User, collection: str, data: bytes) -> str:
        """Upload until that is answered."""
        while True:
            started = time.monotonic()
            try:
                answer = user.http.post(
                    "/images/upload", files={"file": ("photo.jpg", data)}, data={"collection": collection}
                )
            except httpx.TransportError:
                self.answers["none"] += 1
                time.sleep(self.pause)
                continue
            self.slowest = max(self.slowest, time.monotonic() - started)
            self.answers[str(answer.status_code)] += 1
            if answer.status_code in (200, 202):
                return str(answer.json()["id"])
            assert answer.status_code == 503, answer.text
            time.sleep(self.pause)

    def look(self) -> list[Look]:
        """At every acknowledged upload, in their order."""
        user = User(self.server)
        with ThreadPoolExecutor(self.count) as looking:
            return list(looking.map(lambda entry: self._look(user, self.upload(entry)), self.acknowledged))

    def _look(self, user: User, upload: Upload) -> Look:
        answer = user.http.get(f"/images/{upload.id}")
        if answer.status_code != 200 or answer.json()["state"] != "done":
            return Look(str(answer.json().get("state", "unknown")), False, 0)
        hits = user.hits(upload)
        intact = user.http.get(f"/images/{upload.id}/file", follow_redirects=True).content == upload.data
        times = hits.count(upload.id)
        return Look("done", intact and times > 0, len(hits) - times + max(times - 1, 0))
