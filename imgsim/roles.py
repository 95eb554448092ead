"""What a process is for: which parts it opens, and which routes it has."""

from collections.abc import Collection
from dataclasses import dataclass

from imgsim.core.errors import SettingsError
from imgsim.settings import Settings

STORAGE = ("objects", "database", "vectors", "jobs")


@dataclass(frozen=True, slots=True)
class Role:
    name: str
    parts: tuple[str, ...]
    """The adapters it opens, in this order."""
    routes: Collection[str]
    """Groups of routes: ``images``, ``encode``, ``operations``, ``page``."""
    works: bool = False
    """Whether it takes images through the pipeline."""
    shares: bool = True
    """Whether others work on the same parts, so that none of them may be embedded."""

    def check(self, settings: Settings) -> None:
        """``SettingsError`` where a part that must be shared lives in one process."""
        alone = [f"{part}.url" for part in self.parts if part in STORAGE and settings.embedded(part)]
        if self.shares and alone:
            raise SettingsError(
                f"imgsim {self.name} works beside other processes, so all parts must be servers, but these are "
                f"embedded in one process: {', '.join(alone)}. Set them (config/cluster.toml is an example), or "
                "run imgsim serve."
            )


SERVE = Role("serve", (*STORAGE, "embedder"), {"images", "encode", "operations", "page"}, works=True, shares=False)
API = Role("api", (*STORAGE, "embedder"), {"images", "encode", "operations", "page"})
WORKER = Role("worker", (*STORAGE, "embedder"), {"operations"}, works=True)
EMBEDDER = Role("embedder", ("embedder",), {"encode", "operations"})
STORE = Role("migrate-data", STORAGE[:3], (), shares=False)
"""Reads and writes what is kept, and does nothing with it."""

BY_NAME = {role.name: role for role in (SERVE, API, WORKER, EMBEDDER)}
