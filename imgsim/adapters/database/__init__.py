"""Image repositories by URL scheme."""

from collections.abc import Awaitable, Callable, Mapping

from imgsim.core.ports import ImageRepository
from imgsim.settings import Settings


def _sqlite(settings: Settings) -> ImageRepository:
    from imgsim.adapters.database.piccolo_repository import PiccoloImageRepository
    from imgsim.adapters.database.sqlite import sqlite_session

    return PiccoloImageRepository(sqlite_session(settings))


def _postgresql(settings: Settings) -> ImageRepository:
    from imgsim.adapters.database.piccolo_repository import PiccoloImageRepository
    from imgsim.adapters.database.postgresql import postgresql_session

    return PiccoloImageRepository(postgresql_session(settings))


def _memory(settings: Settings) -> ImageRepository:
    from imgsim.adapters.database.memory import MemoryImageRepository

    return MemoryImageRepository()


DATABASES: Mapping[str, Callable[[Settings], ImageRepository]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "postgres": _postgresql,
    "memory": _memory,
}
"""What makes the repository that the settings describe, by the scheme of ``database.url``."""


async def _migrate_sqlite(settings: Settings) -> list[str]:
    from imgsim.adapters.database.sqlite import migrate_sqlite

    return await migrate_sqlite(settings)


async def _migrate_postgresql(settings: Settings) -> list[str]:
    from imgsim.adapters.database.postgresql import postgresql_session

    return await postgresql_session(settings).migrate()


async def _nothing_to_migrate(settings: Settings) -> list[str]:
    return []


MIGRATIONS: Mapping[str, Callable[[Settings], Awaitable[list[str]]]] = {
    "sqlite": _migrate_sqlite,
    "postgresql": _migrate_postgresql,
    "postgres": _migrate_postgresql,
    "memory": _nothing_to_migrate,
}
"""What brings the tables up to date, and gives the ids of the migrations that ran."""
