"""``/metrics`` of an API process while the servers behind it are away, or busy."""

import io
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.processes import ImgsimServer
from tests.servers import PostgreSQL, SeaweedFS, Valkey

Figures = dict[str, float]


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    """Of this module's own, to be killed."""
    with Valkey() as running:
        yield running


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    with PostgreSQL() as running:
        yield running


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, valkey: Valkey, postgresql: PostgreSQL, seaweedfs: SeaweedFS
) -> Iterator[httpx.Client]:
    """An API with one image that waits: nobody works."""
    settings = {
        "IMGSIM_OBJECTS__URL": seaweedfs.new_bucket(),
        "IMGSIM_DATABASE__URL": postgresql.url,
        "IMGSIM_VECTORS__URL": postgresql.url,
        "IMGSIM_JOBS__URL": valkey.url,
        "IMGSIM_EMBEDDER__URL": "colour:",
        **seaweedfs.environment,
    }
    with (
        ImgsimServer(tmp_path_factory.mktemp("api") / "data", settings, role="api") as server,
        server.client() as client,
    ):
        file = io.BytesIO()
        Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)).save(file, "PNG")
        client.post("/images/upload", files={"file": file.getvalue()}).raise_for_status()
        yield client


def scraped(client: httpx.Client) -> Figures:
    """The figures of the stock, by name and label."""
    response = client.get("/metrics", timeout=5)
    assert response.status_code == 200
    return {
        ":".join([sample.name.removeprefix("imgsim_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(response.text)
        if family.name in ("imgsim_images", "imgsim_vectors", "imgsim_queue_depth", "imgsim_stock_up")
        for sample in family.samples
    }


def until(client: httpx.Client, holds: Callable[[Figures], bool]) -> Figures:
    deadline = time.monotonic() + 30
    while not holds(found := scraped(client)):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def whole(figures: Figures) -> bool:
    up = [figures[f"stock_up:{part}"] for part in ("database", "vectors", "jobs")]
    return up == [1, 1, 1] and waiting(figures) == 1 and {"queue_depth", "images:done"} <= figures.keys()


def waiting(figures: Figures) -> float:
    """Images; a crash of the database may undo that one has gone from created to pending."""
    return figures["images:created"] + figures["images:pending"]


def test_without_redis_only_the_queue_is_not_told(client: httpx.Client, valkey: Valkey) -> None:
    until(client, whole)
    valkey.kill()
    try:
        away = until(client, lambda figures: not figures["stock_up:jobs"])
        assert "queue_depth" not in away
        assert (waiting(away), away["stock_up:database"], away["stock_up:vectors"]) == (1, 1, 1)
    finally:
        valkey.start()
    until(client, whole)


def test_without_a_database_only_the_queue_is_told(client: httpx.Client, postgresql: PostgreSQL) -> None:
    until(client, whole)
    postgresql.kill()
    try:
        away = until(client, lambda figures: not figures["stock_up:database"] and not figures["stock_up:vectors"])
        assert not any(name.startswith(("images", "vectors")) for name in away)
        assert (away["queue_depth"], away["stock_up:jobs"]) == (1, 1)
    finally:
        postgresql.start()
    until(client, whole)


async def test_while_counting_takes_long_the_last_figures_stand(client: httpx.Client, postgresql: PostgreSQL) -> None:
    before = until(client, whole)
    async with locked(postgresql, "image"):
        begun = time.monotonic()
        assert scraped(client) == before
        assert time.monotonic() - begun < 4
    until(client, whole)


@asynccontextmanager
async def locked(postgresql: PostgreSQL, table: str) -> AsyncIterator[None]:
    """Whoever reads the table waits."""
    connection = await asyncpg.connect(postgresql.url)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


def test_a_process_that_does_not_tell_the_stock_tells_nothing_of_it(tmp_path: Path) -> None:
    embedder = ImgsimServer(tmp_path / "data", {"IMGSIM_EMBEDDER__URL": "colour:"}, role="embedder")
    with embedder, embedder.client() as client:
        assert scraped(client) == {}
