"""What many processes on one PostgreSQL need: races, restarts, and a server that is away."""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from piccolo.querystring import QueryString

from imgsim.adapters.database.postgresql import PostgreSQLSession, postgresql_session
from imgsim.core.errors import InvalidRequest, SettingsError, Unavailable
from imgsim.core.models import CacheKey, ImageFilter, ImageState, new_image_id
from imgsim.core.ports import ImageRepository
from imgsim.settings import Database, Settings
from tests.contracts.test_image_repository import (
    LONG,
    MODEL,
    add,
    add_many,
    claim,
    new_image,
    new_vector,
    opened,
    until,
)
from tests.servers import PostgreSQL

PASSWORD = "correct-horse"


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    return postgresql.new_database()


@pytest.fixture
async def repository(url: str) -> AsyncIterator[ImageRepository]:
    async with opened(url) as repository:
        yield repository


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgreSQL]:
    """One that tests may stop; each leaves it running."""
    with PostgreSQL() as server:
        yield server


@asynccontextmanager
async def opened_session(url: str) -> AsyncIterator[PostgreSQLSession]:
    session = postgresql_session(Settings(database=Database(url=url)))
    await session.open()
    try:
        yield session
    finally:
        await session.close()


# restarts


@pytest.mark.parametrize("end", [PostgreSQL.stop, PostgreSQL.kill])
async def test_a_restart_between_two_calls_goes_unnoticed(own_server: PostgreSQL, end: Any) -> None:
    async with opened(own_server.new_database()) as repository:
        image_ids = await add_many(repository, 5)
        await asyncio.gather(*(repository.get(image_id) for image_id in image_ids))  # as many connections
        end(own_server)
        own_server.start()
        claimed, updated, found, listed = await asyncio.gather(
            repository.claim(image_ids, "one", LONG, "embed"),
            repository.update(image_ids[0], tags=["cat"]),
            repository.get_many(image_ids),
            repository.list(ImageFilter(), 10),
        )
        assert list(updated.tags) == ["cat"]
        assert len(found) == len(listed) == 5
        claimed = [*claimed, *await repository.claim(image_ids, "one", LONG, "embed")]  # what `update` held
        assert sorted(image.id for image in claimed) == image_ids


async def test_while_the_server_is_away_it_is_unavailable(own_server: PostgreSQL) -> None:
    url = own_server.new_database().replace("imgsim@", f"imgsim:{PASSWORD}@")
    async with opened(url) as repository:
        image = await add(repository)
        own_server.stop()
        try:
            began = time.monotonic()
            for call in (
                repository.get(image.id),
                repository.add(new_image()),
                repository.update(image.id, tags=["a"]),
                repository.ping(),
                opened(url).__aenter__(),
            ):
                with pytest.raises(Unavailable) as raised:
                    await call
                assert PASSWORD not in raised.value.message
            assert time.monotonic() - began < 5
        finally:
            own_server.start()
        await repository.ping()
        assert await repository.get(image.id) == image


async def test_a_repository_closes_while_the_server_is_away(own_server: PostgreSQL) -> None:
    async with opened(own_server.new_database()) as repository:
        await repository.ping()
        own_server.stop()
    own_server.start()


# what it refuses


async def test_what_is_too_deep_for_the_server_is_refused_and_no_outage(postgresql: PostgreSQL, url: str) -> None:
    postgresql.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET max_stack_depth = '100kB'", url)
    deep = QueryString("SELECT {}::text::jsonb", "[" * 10_000 + "]" * 10_000)
    async with opened_session(url) as session:
        for call in (session.select(deep), session.execute(deep)):
            with pytest.raises(InvalidRequest, match="stack depth"):
                await call


# many processes


async def test_processes_that_open_a_new_database_at_once_make_its_tables_once(url: str) -> None:
    program = (
        "import asyncio, sys\n"
        "from imgsim.adapters.database import DATABASES\n"
        "from imgsim.settings import Database, Settings\n"
        "async def main():\n"
        "    async with DATABASES['postgresql'](Settings(database=Database(url=sys.argv[1]))) as repository:\n"
        "        await repository.ping()\n"
        "asyncio.run(main())\n"
    )
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program, url, stderr=pipe) for _ in range(8)
    ]
    said = await asyncio.gather(*(process.communicate() for process in processes))
    assert [process.returncode for process in processes] == [0] * 8, said
    connection = await asyncpg.connect(url)
    names = [row["name"] for row in await connection.fetch("SELECT name FROM migration ORDER BY name")]
    await connection.close()
    assert names == ["0001", "0002", "0003", "0004", "0005"]


async def test_four_racers_share_two_hundred_images(url: str) -> None:
    async with opened(url) as one, opened(url) as two, opened(url) as three, opened(url) as four:
        image_ids = await add_many(one, 200)

        async def work(repository: ImageRepository, owner: str) -> list[UUID]:
            done = []
            while any(image.state is not ImageState.DONE for image in (await one.get_many(image_ids)).values()):
                some = random.sample(image_ids, 50)
                await repository.mark_pending(some)
                claimed = await repository.claim(some, owner, LONG, "embed")
                kept, returned = claimed[:5], claimed[5:]
                await repository.renew(owner, [image.id for image in claimed], LONG)
                for image in kept:
                    await repository.finish(image.id, image.attempts, {}, MODEL)
                    done.append(image.id)
                if returned:
                    await repository.release(owner)
            return done

        racers = {"one": one, "two": two, "three": three, "four": four}
        done = await asyncio.gather(*(work(repository, owner) for owner, repository in racers.items()))
        assert sorted(image_id for ids in done for image_id in ids) == image_ids
        assert sum(bool(ids) for ids in done) > 1
    connection = await asyncpg.connect(url)
    deadlocks = await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    await connection.close()
    assert deadlocks == 0


async def test_a_claim_does_not_wait_for_what_somebody_else_is_changing(url: str, repository: ImageRepository) -> None:
    held, free = await add_many(repository, 2)
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        await connection.execute("SELECT 1 FROM image WHERE id = $1 FOR UPDATE", held)
        assert [image.id for image in await repository.claim([held, free], "one", LONG, "embed")] == [free]
    await connection.close()
    await claim(repository, held)


async def test_of_two_transactions_in_each_others_way_both_end_well(url: str, repository: ImageRepository) -> None:
    first, second = await add_many(repository, 2)
    change = "UPDATE image SET width = width + 1 WHERE id = {}"
    connection = await asyncpg.connect(url, server_settings={"deadlock_timeout": "60s"})  # not the one that gives way
    async with opened_session(url) as session:
        async with connection.transaction():
            await connection.execute(change.format("$1"), second)
            waiting = asyncio.create_task(session.execute(QueryString(change, first), QueryString(change, second)))
            await until(lambda: connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
            await connection.execute(change.format("$1"), first)
        await waiting
    await connection.close()
    assert [(await repository.get(image_id)).width for image_id in (first, second)] == [1202, 1202]


async def test_the_last_two_images_with_the_same_bytes_are_purged_at_once(repository: ImageRepository) -> None:
    """Neither sees the other go, and yet the embedding of their bytes is swept."""
    images = [await add(repository, sha256="ab" * 32, collection=name) for name in "abcdefgh"]
    await repository.cache_embedding(CacheKey("ab" * 32, "a@1", "1"), new_vector())
    assert await repository.sweep_cache(0) == 0
    for image in images:
        await repository.entomb(image.id)
    await asyncio.gather(*(repository.purge(image.id) for image in images))
    assert await repository.sweep_cache(0) == 1


# what goes to the server


async def test_progress_is_not_synced_and_all_else_is(url: str) -> None:
    async with opened(url), opened_session(url) as session:
        insert = QueryString("INSERT INTO image_tag (image, tag) VALUES ({}, 'a') RETURNING id", new_image_id())
        look = QueryString("UPDATE image_tag SET tag = 'b' RETURNING current_setting('synchronous_commit') AS value")
        for synced, expected in ((True, "on"), (False, "off"), (True, "on")):
            await session.execute(QueryString("DELETE FROM image_tag"))
            _, (row,) = await session.execute(insert, look, synced=synced)
            assert row["value"] == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"filename": "a\0b"},
        {"filename": "\ud800"},
        {"tags": ["a\0b"]},
        {"tags": ["x" * 256]},
        {"metadata": {"a": "b\0c"}},
        {"metadata": {"\udfff": 1}},
        {"collection": "x" * 256},
        {"bytes": 2**63},
        {"width": 2**31},
    ],
    ids=str,
)
async def test_what_the_database_cannot_hold_is_refused(repository: ImageRepository, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await add(repository, **changes)
    assert sum((await repository.counts()).values()) == 0


async def test_large_numbers_in_metadata_can_be_read_back(repository: ImageRepository) -> None:
    image = await add(repository, metadata={"a": 1e300, "b": 10**30, "c": -1e-300, "d": 5e-324})
    metadata = (await repository.get(image.id)).metadata
    assert {name: float(value) for name, value in metadata.items()} == {
        "a": 1e300,
        "b": 1e30,
        "c": -1e-300,
        "d": 5e-324,
    }


async def test_a_pooler_that_knows_no_prepared_statements(url: str) -> None:
    async with opened(f"{url}?statement_cache_size=0&application_name=a%20b") as repository:
        image = await add(repository, tags=["cat"])
        assert await repository.get(image.id) == image


@pytest.mark.parametrize(
    "change",
    [
        {"url": "postgresql://imgsim@127.0.0.1:port/imgsim"},
        {"url": "postgresql://imgsim:" + PASSWORD + "/1@127.0.0.1/imgsim"},
        {"url": "postgresql://imgsim:" + PASSWORD + "@[::1/imgsim"},
        {"url": "postgresql://imgsim@127.0.0.1/imgsim?statement_cache_size=none"},
        {"url": "postgresql://imgsim@127.0.0.1/imgsim", "pool_min": 5, "pool_max": 2},
    ],
    ids=str,
)
async def test_settings_that_cannot_be_used(change: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="database") as raised:
        await postgresql_session(Settings(database=Database(**change))).open()
    assert PASSWORD not in raised.value.message


async def test_a_database_that_is_not_there(postgresql: PostgreSQL) -> None:
    url = postgresql.url.replace("imgsim@", f"imgsim:{PASSWORD}@").replace("/postgres", "/missing")
    with pytest.raises(Unavailable, match='"missing" does not exist') as raised:
        await opened(url).__aenter__()
    assert PASSWORD not in raised.value.message


async def test_the_other_spelling_of_the_scheme(url: str) -> None:
    async with opened(url.replace("postgresql:", "postgres:")) as repository:
        image = await add(repository)
        assert replace(image, duplicate=True) == await add(repository, sha256=image.sha256)
