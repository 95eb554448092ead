"""What an image costs the database and the disk in a standalone server, counted: the budget of its writes."""

import asyncio
import io
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from imgsim.adapters.database import sqlite_engine
from imgsim.container import Container
from imgsim.core.models import ImageFilter, ImageState
from imgsim.running import opened, working
from imgsim.settings import load_settings
from tests.benchmarks.photographs import make_photographs

pytestmark = pytest.mark.alone

IMAGES = 64
STATEMENTS = 6
"""An image, under load: look for its bytes, add its row, advance, finish; and shares of those that are made for several
images at once: pending, claim, look for its embedding, keep it."""
SYNCS = 2.6
"""An image, under load: its file, the folder of it, and a share of a commit."""
ALONE = 8, 3
"""Statements and syncs of an image that comes alone."""
A_COPY = 11, 4
"""The same of one that is a copy of one before: looks at its row, and puts both into a group."""


class Counts(Counter[str]):
    """Statements, commits and syncs, by kind."""

    def heard(self, statement: str) -> None:
        words = statement.split()
        if words[0] == "PRAGMA":
            self["durable"] = words[-1] == "FULL"
        elif words[0] == "COMMIT":
            self["commits"] += 1
            self["syncs"] += self["durable"]
        elif words[0] != "BEGIN":
            self["statements"] += 1

    def each(self, images: int) -> tuple[float, float]:
        return self["statements"] / images, self["syncs"] / images


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Container, Counts]]:
    """A standalone server without its door, and what it does from now on."""
    counts = Counts()
    connect, fsync = sqlite3.connect, os.fsync

    def counted_connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(counts.heard)
        return connection

    def counted_fsync(descriptor: int) -> None:
        counts["syncs"] += 1
        fsync(descriptor)

    monkeypatch.setattr(sqlite_engine.sqlite3, "connect", counted_connect)
    # The reconciler looks on its own account, not on that of an image.
    values = {"data_dir": tmp_path, "jobs": {"reconcile_seconds": 1000.0}}
    container = Container(settings=load_settings(overrides=values))
    async with opened(container), working(container):
        for number in range(256):  # the folders of the object store are made once
            (tmp_path / "objects" / "originals" / f"{number:02x}").mkdir(parents=True)
        monkeypatch.setattr(os, "fsync", counted_fsync)
        yield container, counts


async def ingest(container: Container, photographs: list[bytes], counts: Counts) -> None:
    """From the upload to ``done``."""
    with container.events().listen() as listener:
        counts.clear()
        await asyncio.gather(*(container.ingest().upload(io.BytesIO(each)) for each in photographs))
        done = 0
        while done < len(photographs):
            event = await listener.next()
            assert event is not None
            done += event.state == ImageState.DONE


async def test_the_writes_of_many_images_stay_in_their_budget(server: tuple[Container, Counts]) -> None:
    container, counts = server
    first, *photographs, another = make_photographs(IMAGES + 2, (640, 480), seed=9)  # no copies
    await ingest(container, [first], Counts())
    # Counted apart: the folders' entries, which a store syncs when it meets a folder for the first time.
    container.objects()._durable |= {  # type: ignore[attr-defined]
        container.settings().data_dir / "objects" / "originals" / f"{number:02x}" for number in range(256)
    }
    await ingest(container, photographs, counts)

    statements, syncs = counts.each(IMAGES)
    print(f"an image: {statements:.2f} statements, {counts['commits'] / IMAGES:.2f} commits, {syncs:.2f} syncs")
    assert statements <= STATEMENTS
    assert syncs <= SYNCS
    assert counts["commits"] < counts["statements"] / 2  # they share their commits

    (copy,) = make_photographs(1, (640, 480), seed=10)
    for photograph, budget in ((another, ALONE), (copy, A_COPY)):
        await ingest(container, [photograph], counts)
        statements, syncs = counts.each(1)
        assert (statements <= budget[0], syncs <= budget[1]) == (True, True), (statements, syncs)
    assert len(await container.images().list(ImageFilter(), 100)) == IMAGES + 3
