"""Image repositories by URL scheme."""

from collections.abc import Awaitable, Callable, Mapping

from imgsim.core.ports import ImageRepository


def _sqlite(url: str) -> ImageRepository:
    from imgsim.adapters.database.sqlite import open_sqlite

    return open_sqlite(url)


def _memory(url: str) -> ImageRepository:
    from imgsim.adapters.database.memory import MemoryImageRepository

    return MemoryImageRepository()


DATABASES: Mapping[str, Callable[[str], ImageRepository]] = {"sqlite": _sqlite, "memory": _memory}


async def _migrate_sqlite(url: str) -> list[str]:
    from imgsim.adapters.database.sqlite import migrate_sqlite

    return await migrate_sqlite(url)


async def _nothing_to_migrate(url: str) -> list[str]:
    return []


MIGRATIONS: Mapping[str, Callable[[str], Awaitable[list[str]]]] = {
    "sqlite": _migrate_sqlite,
    "memory": _nothing_to_migrate,
}
