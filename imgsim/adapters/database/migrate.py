"""Runs Piccolo's migrations on one engine."""

import asyncio
import contextlib
import io
import logging
import os
from collections.abc import AsyncIterator
from typing import Any

from piccolo.apps.migrations.commands.forwards import ForwardsMigrationManager
from piccolo.apps.migrations.tables import Migration
from piccolo.engine.base import Engine

from imgsim.adapters.database import piccolo_conf
from imgsim.adapters.database.piccolo_app import APP_CONFIG
from imgsim.core.errors import Unavailable
from imgsim.core.threads import finished

log = logging.getLogger("imgsim.database")

_LOCK = 0x696D6773696D  # "imgsim", the advisory lock that a migration holds
_LONGEST_WAIT_SECONDS = 60

# Piccolo finds the engine of migrations through a module, so one engine is migrated at a time.
_one_at_a_time = asyncio.Lock()


async def migrate(engine: Engine[Any]) -> list[str]:
    """Bring the tables of `engine` up to date, all or nothing; return the ids of the migrations that ran."""
    return await finished(asyncio.ensure_future(_migrate(engine)))


async def migrate_if_new(engine: Engine[Any]) -> None:
    """Make the tables of a new database. ``Unavailable`` where an old one waits for ``imgsim migrate``:
    what changes people's data is never done in passing."""
    await finished(asyncio.ensure_future(_migrate_if_new(engine)))


# Each in a task of its own: cancelled amid a transaction, Piccolo leaves its connection open, and with it a thread
# that the process would wait for when it ends.


async def _migrate(engine: Engine[Any]) -> list[str]:
    async with _manager(engine) as manager:
        waiting = await _waiting(manager)
        await _run(manager)
        return waiting


async def _migrate_if_new(engine: Engine[Any]) -> None:
    async with _manager(engine) as manager:
        waiting = await _waiting(manager)
        if waiting and await Migration.get_migrations_which_ran(app_name=APP_CONFIG.app_name):
            raise Unavailable(f"The database waits for the migrations {', '.join(waiting)}: run imgsim migrate.")
        if waiting:
            await _run(manager)


@contextlib.asynccontextmanager
async def _manager(engine: Engine[Any]) -> AsyncIterator[ForwardsMigrationManager]:
    async with _one_at_a_time:
        os.environ["PICCOLO_CONF"] = piccolo_conf.__name__
        piccolo_conf.DB = engine
        Migration._meta._db = engine
        manager = ForwardsMigrationManager(app_name=APP_CONFIG.app_name)
        async with engine.transaction():
            if engine.engine_type == "postgres":  # other processes may be at it
                await Migration.raw(f"SET LOCAL lock_timeout = '{_LONGEST_WAIT_SECONDS}s'").run()
                await Migration.raw(f"SELECT pg_advisory_xact_lock({_LOCK})").run()
            await manager.create_migration_table()
            yield manager


async def _run(manager: ForwardsMigrationManager) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as said:  # it prints its progress
        result = await manager.run_migrations(APP_CONFIG)
    log.debug("piccolo: %s", said.getvalue())
    if not result.success:
        raise Unavailable(f"The database could not be migrated: {result.message}.")


async def _waiting(manager: ForwardsMigrationManager) -> list[str]:
    modules = manager.get_migration_modules(APP_CONFIG.resolved_migrations_folder_path)
    ran = await Migration.get_migrations_which_ran(app_name=APP_CONFIG.app_name)
    return sorted(set(manager.get_migration_ids(modules)) - set(ran))
