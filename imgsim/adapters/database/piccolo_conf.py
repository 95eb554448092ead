"""Piccolo's configuration. ``DB`` is set while migrations run, see ``migrate.py``."""

from typing import Any

from piccolo.conf.apps import AppRegistry
from piccolo.engine.base import Engine

DB: Engine[Any] | None = None

APP_REGISTRY = AppRegistry(apps=["imgsim.adapters.database.piccolo_app"])
