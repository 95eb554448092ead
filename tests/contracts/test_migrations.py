"""What every migration promises on both engines: data stays, and all of it runs or nothing."""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from imgsim.adapters.database import MIGRATIONS, migrations, statements, tables
from imgsim.adapters.database.piccolo_app import APP_CONFIG
from imgsim.adapters.database.rows import row_of
from imgsim.core.errors import Unavailable
from imgsim.core.models import Image, ImageFilter, ImageState
from imgsim.settings import Database, Settings
from tests.contracts.test_image_repository import new_image, new_reservation, opened
from tests.servers import PostgreSQL

FOLDER = Path(migrations.__path__[0])
BROKEN = """
from imgsim_0001_first_tables import MigrationManager, engine_finder
from piccolo.table import Table

ID = "0002-broken"


async def create():
    class Left(Table, db=engine_finder()):
        pass

    await Left.create_table()
    await Left.raw("SELECT 1 FROM nowhere").run()


async def forwards():
    manager = MigrationManager(migration_id=ID, app_name="imgsim", description="")
    manager.add_raw(create)
    return manager
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new, empty database lies."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/imgsim.sqlite"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.new_database()


@pytest.fixture
def first_only(tmp_path: Path) -> str:
    """A folder as it was before the second migration."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    shutil.copy(FOLDER / "imgsim_0001_first_tables.py", folder)
    return str(folder)


async def migrate(url: str) -> list[str]:
    return await MIGRATIONS[url.partition(":")[0]](Settings(database=Database(url=url)))


def columns_of(url: str, postgresql: PostgreSQL) -> Mapping[str, set[str]]:
    """The columns of every table but Piccolo's own."""
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite://")) as connection:
            rows: Any = connection.execute(
                "SELECT t.name, c.name FROM sqlite_master AS t, pragma_table_info(t.name) AS c WHERE t.type = 'table'"
            ).fetchall()
    else:
        sql = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        rows = [tuple(row.values()) for row in postgresql.execute(sql, url)]
    names = {table for table, _ in rows if table not in ("migration", "sqlite_sequence")}
    return {name: {column for table, column in rows if table == name} for name in names}


async def put_old_row(repository: Any, image: Image, owner: str | None = None) -> None:
    """As the first version did."""
    row = {**row_of(image), "owner": owner}
    del row["states"], row["on_copy"]
    tags = [statements.insert_tags(image.id, image.tags)] if image.tags else []
    await repository._session.execute(statements.insert("image", row), *tags)


async def test_migrations_make_the_tables_that_the_code_names(url: str, postgresql: PostgreSQL) -> None:
    assert await migrate(url) == ["0001", "0002", "0003", "0004", "0005"]
    assert await migrate(url) == []
    named = [
        *(tables.ImageRow, tables.ImageTagRow, tables.CachedEmbeddingRow, tables.ReservationRow),
        *(tables.CopyMemberRow, tables.NotCopiesRow),
    ]
    assert columns_of(url, postgresql) == {
        table._meta.tablename: {column._meta.db_column_name for column in table._meta.columns} for table in named
    }


async def test_an_old_database_keeps_its_images(url: str, first_only: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(APP_CONFIG, "migrations_folder_path", first_only)
        async with opened(url) as repository:
            done = new_image(
                tags=["cat"], metadata={"a": [1]}, state=ImageState.DONE, updated_at=datetime.now(UTC), states={}
            )
            running = new_image(state=ImageState.EMBEDDING, states={})
            await put_old_row(repository, done)
            await put_old_row(repository, running, owner="one")
    with pytest.raises(Unavailable, match="0002, 0003, 0004, 0005: run imgsim migrate"):
        await opened(url).__aenter__()
    assert await migrate(url) == ["0002", "0003", "0004", "0005"]
    async with opened(url) as repository:
        assert await repository.get(done.id) == done
        assert done.states == {ImageState.CREATED: done.created_at, ImageState.DONE: done.updated_at}
        assert list(await repository.list(ImageFilter(tags=["cat"]), 10)) == [done]
        assert list(await repository.release("one")) == [running.id]
        released = await repository.get(running.id)
        assert released.states == {ImageState.CREATED: running.created_at, ImageState.PENDING: released.updated_at}
        await repository.reserve(new_reservation())


async def test_a_migration_that_fails_leaves_nothing_behind(
    url: str, first_only: str, monkeypatch: pytest.MonkeyPatch, postgresql: PostgreSQL
) -> None:
    with monkeypatch.context() as broken:
        (Path(first_only) / "imgsim_0002_broken.py").write_text(BROKEN)
        broken.setattr(APP_CONFIG, "migrations_folder_path", first_only)
        with pytest.raises(Unavailable, match="nowhere"):
            await migrate(url)
    assert columns_of(url, postgresql) == {}
    async with opened(url) as repository:
        await repository.ping()


async def test_a_process_that_is_stopped_while_it_migrates_can_end(tmp_path: Path) -> None:
    """Cancelled at any moment, no connection stays open: the process would wait for its thread for ever."""
    for moment in range(40):
        before = set(threading.enumerate())
        starting = asyncio.ensure_future(migrate(f"sqlite://{tmp_path}/{moment}.sqlite"))
        while not starting.done() and not _connections(before):  # noqa: ASYNC110 (a thread sets no event)
            await asyncio.sleep(0)
        await asyncio.sleep(moment * 0.0002)
        starting.cancel()
        await asyncio.wait([starting])
        assert not _connections(before), moment


def _connections(before: set[threading.Thread]) -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each not in before and "connection" in each.name]
