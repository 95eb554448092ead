"""A database that somebody else holds fails all who wait at once, and serves again afterwards."""

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest
from piccolo.querystring import QueryString

from imgsim.adapters.database.sqlite_engine import GroupCommitSQLiteEngine
from imgsim.core.errors import Unavailable

SECONDS = 0.5


async def test_a_locked_database_costs_its_timeout_once(tmp_path: Path) -> None:
    path = tmp_path / "imgsim.sqlite"
    engine = GroupCommitSQLiteEngine(path)
    engine.connection_kwargs["timeout"] = SECONDS
    await engine.open()
    await engine.execute([QueryString("CREATE TABLE note (text TEXT)")], synced=True)

    def write(number: int) -> asyncio.Future[object]:
        return asyncio.ensure_future(
            engine.execute([QueryString("INSERT INTO note VALUES ({})", str(number))], synced=True)
        )

    with sqlite3.connect(path) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        outcomes = await asyncio.gather(*map(write, range(8)), return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        assert time.monotonic() - started < 3 * SECONDS
    other.close()
    await asyncio.gather(*map(write, range(8)))
    assert len(await engine.select(QueryString("SELECT * FROM note"))) == 8
    with pytest.raises(sqlite3.OperationalError):
        await engine.execute([QueryString("INSERT INTO nothing VALUES (1)")], synced=True)
    await engine.close()
