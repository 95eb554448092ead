"""Breaks every part of a split deployment while images are under way: ``python -m tests.faults.table [NAME…]``.

Each row starts real servers and processes anew: one API, two workers, an embedder, Valkey, PostgreSQL (rows and
vectors), SeaweedFS. Clients upload for some seconds, in the middle of which something breaks. Prints, for each, what
was acknowledged, what of it was lost or doubled at the end, how long after the blow all was done, and what ``/ready``
and the clients saw.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import redis

from tests.cluster import Cluster
from tests.faults.clients import Clients
from tests.faults.orders import Orders
from tests.faults.user import User
from tests.faults.waiting import wait_until

PHOTOS = sorted((Path(__file__).parents[1] / "data" / "classes").rglob("*.jpg"))
_SECONDS_BEFORE, _SECONDS_AFTER = 1.5, 2.5
_OUTAGE = 10.0
_CLIENTS, _PAUSE = 6, 0.1
_SECONDS_TO_REST = 120.0
SETTINGS: Mapping[str, object] = {"jobs__lease_seconds": 2, "jobs__reconcile_seconds": 0.5, "jobs__concurrency": 8}


@dataclass
class Readiness:
    """What ``/ready`` of the API said, in order, without repeats."""

    said: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if not self.said or self.said[-1] != text:
            self.said.append(text)

    def __str__(self) -> str:
        return " → ".join(self.said)


@dataclass(frozen=True, slots=True)
class Row:
    fault: str
    acknowledged: int
    lost: int
    doubled: int
    seconds: float
    """From the blow until all that was acknowledged was done."""
    ready: str
    client: str

    @property
    def passed(self) -> bool:
        return self.acknowledged > 0 and self.lost == 0 and self.doubled == 0

    def __str__(self) -> str:
        figures = f"{self.acknowledged} | {self.lost} | {self.doubled} | {self.seconds:.1f}"
        return f"| {self.fault} | {figures} | {self.ready} | {self.client} |"


HEAD = (
    "| fault | acknowledged | lost | doubled | seconds until all done | `/ready` | clients |\n"
    "|---|---|---|---|---|---|---|"
)

Fault = Callable[[Cluster, Orders], None]


def kill_worker(cluster: Cluster, orders: Orders) -> None:
    cluster.workers[0].kill()


def kill_api(cluster: Cluster, orders: Orders) -> None:
    cluster.api.kill()
    cluster.api.start()


def kill_embedder(cluster: Cluster, orders: Orders) -> None:
    cluster.embedder.kill()
    time.sleep(3)
    cluster.embedder.start()


def kill_redis(cluster: Cluster, orders: Orders) -> None:
    cluster.valkey.kill()
    time.sleep(3)
    cluster.valkey.start()


def flush_redis(cluster: Cluster, orders: Orders) -> None:
    cluster.valkey.flush()


def restart_postgresql(cluster: Cluster, orders: Orders) -> None:
    cluster.postgresql.restart()


def crash_postgresql(cluster: Cluster, orders: Orders) -> None:
    cluster.postgresql.kill()
    time.sleep(3)
    cluster.postgresql.start()


def object_store_away(cluster: Cluster, orders: Orders) -> None:
    cluster.seaweedfs.kill()
    time.sleep(_OUTAGE)
    cluster.seaweedfs.start()


def lose_doorbells(cluster: Cluster, orders: Orders) -> None:
    """Every bell that rings is lost, for two seconds."""
    with redis.Redis.from_url(cluster.valkey.url) as client:
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            client.delete("imgsim:queue")
            time.sleep(0.002)


def outlast_lease(cluster: Cluster, orders: Orders) -> None:
    """One job takes twice its lease; its heartbeat must keep it from being run again."""
    upload = User(cluster.api).upload(PHOTOS[0], "long.jpg", collection="long")
    orders.wait_until_obeyed("before-embed", upload.filename)
    wait_until(lambda: User(cluster.api).image(upload)["state"] == "done", "the long job is done")
    times = orders.obeyed("before-embed", upload.filename)
    assert times == 1, f"the long job was run {times} times"


def claim_twice(cluster: Cluster, orders: Orders) -> None:
    """One worker keeps an image while the bell for it rings for the other again and again."""
    user = User(cluster.api)
    orders.give("before-embed", "wanted.jpg")
    upload = user.upload(PHOTOS[0], "wanted.jpg", collection="wanted")
    orders.wait_until_obeyed("before-embed", upload.filename)
    ring_again(cluster, upload.id, 20)
    time.sleep(1)
    times, attempts = orders.obeyed("before-embed", upload.filename), user.image(upload)["attempts"]
    orders.withdraw("before-embed", "wanted.jpg")
    assert (times, attempts) == (1, 1), f"run {times} times in {attempts} attempts"


def ring_again(cluster: Cluster, image_id: str, times: int) -> None:
    """Bells for attempts that never were, as if they had been repeated under other names."""
    import asyncio

    from arq import create_pool

    from imgsim.adapters.jobs import arq_job

    async def ring() -> None:
        pool = await create_pool(
            arq_job.redis_settings(cluster.valkey.url),
            job_serializer=arq_job.serialize,
            job_deserializer=arq_job.deserialize,
            default_queue_name=arq_job.QUEUE_NAME,
        )
        for number in range(times):
            await pool.enqueue_job(arq_job.process_image.__name__, image_id, _job_id=f"{image_id}:again-{number}")
        await pool.aclose()

    asyncio.run(ring())


def terminate_worker(cluster: Cluster, orders: Orders) -> None:
    cluster.workers[0].interrupt()
    assert cluster.workers[0].process.wait(30) == 0


def replace_workers(cluster: Cluster, orders: Orders) -> None:
    """As a rolling update does: a new one comes, an old one goes."""
    for old in list(cluster.workers):
        cluster.add_worker()
        assert old.terminate() == 0


FAULTS: Mapping[str, tuple[str, Fault]] = {
    "worker": ("kill -9 of a worker", kill_worker),
    "api": ("kill -9 of the API, restarted", kill_api),
    "embedder": ("kill -9 of the embedder, back after 3 s", kill_embedder),
    "redis": ("Redis killed, back after 3 s", kill_redis),
    "flush": ("Redis flushed", flush_redis),
    "postgresql": ("PostgreSQL restarted", restart_postgresql),
    "postgresql-crash": ("PostgreSQL crashed, back after 3 s", crash_postgresql),
    "objects": ("object store away for 10 s", object_store_away),
    "bell": ("every doorbell lost for 2 s", lose_doorbells),
    "lease": ("a job of 4 s under a lease of 2 s", outlast_lease),
    "claim": ("bells for two workers, one image", claim_twice),
    "sigterm": ("SIGTERM of a worker at work", terminate_worker),
    "rolling": ("both workers replaced, one by one", replace_workers),
}


def run(name: str, folder: Path) -> Row:
    title, fault = FAULTS[name]
    orders = Orders(folder)
    orders.give("before-embed", "long.jpg", "long")
    with Cluster(folder, workers=2, environment=orders.environment, **SETTINGS) as cluster:
        with _watching(cluster) as ready:
            clients = Clients(cluster.api, PHOTOS, _CLIENTS, _PAUSE)
            try:
                time.sleep(_SECONDS_BEFORE)
                blow = time.monotonic()
                fault(cluster, orders)
                time.sleep(_SECONDS_AFTER)
            finally:
                clients.stop()
            user = User(cluster.api)
            wait_until(lambda: _unfinished(user) == 0, f"{name}: every image is at rest", _SECONDS_TO_REST)
            seconds = time.monotonic() - blow
        looks = clients.look()
        for look in looks:
            if not look.intact:
                print(f"  {name}: {look}", file=sys.stderr)
        extra = user.vectors() - int(user.figure(r'imgsim_images\{state="done"\}'))
    answers = ", ".join(f"{count} × {status}" for status, count in sorted(clients.answers.items()))
    return Row(
        title,
        acknowledged=len(looks),
        lost=sum(not look.intact for look in looks),
        doubled=max(extra, 0) + sum(look.others for look in looks),
        seconds=seconds,
        ready=str(ready),
        client=f"{answers}; slowest {clients.slowest:.1f} s",
    )


def _unfinished(user: User) -> float:
    try:
        return user.figure(r'imgsim_images\{state="(?:created|pending|embedding|indexing)"\}')
    except httpx.HTTPError:  # a part is away, and cannot be counted
        return 1


@contextmanager
def _watching(cluster: Cluster) -> Iterator[Readiness]:
    """Asks ``/ready`` all the time."""
    ready, over = Readiness(), threading.Event()

    def watch() -> None:
        with cluster.api.client(verify=False) as client:
            while not over.wait(0.1):
                try:
                    checks = client.get("/ready").json()["checks"]
                except httpx.TransportError:
                    ready.note("no answer")
                else:
                    down = [part for part, answer in checks.items() if answer != "ok"]
                    ready.note(f"503 ({', '.join(down)})" if down else "200")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield ready
    finally:
        over.set()
        watcher.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(FAULTS)}; all without any")
    names = parser.parse_args().names or list(FAULTS)
    if unknown := [name for name in names if name not in FAULTS]:
        parser.error(f"there is no fault {', '.join(unknown)}")
    passed = True
    print(HEAD, flush=True)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = run(name, Path(folder))
            except Exception:
                for log in sorted(Path(folder).glob("*.log")):
                    print(f"== {log.stem}\n{log.read_text()[-6000:]}", file=sys.stderr)
                raise
        print(row, flush=True)
        passed = passed and row.passed
    print("\npassed" if passed else "\nFAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
