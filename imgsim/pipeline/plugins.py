"""Finding plugins: the entry-point group ``imgsim``, through which the built-in stages come too."""

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import pluggy

from imgsim.core.errors import PluginError
from imgsim.pipeline import hookspecs
from imgsim.pipeline.registry import order_stages
from imgsim.pipeline.stage import Stage, stage_names

GROUP = "imgsim"

_STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True, slots=True)
class StageOrigin:
    """A stage in its place, with the plugin it came from and that plugin's distribution."""

    stage: Stage
    plugin: str
    distribution: str


def load_plugins(disabled: Sequence[str] = ()) -> pluggy.PluginManager:
    """Import and register every plugin that is not `disabled`. ``PluginError`` names what cannot be used."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    found = _installed()
    for name in disabled:
        if name not in found:
            raise PluginError(
                f"The setting plugins.disabled names {name!r}, which is no plugin. There are: {', '.join(found)}."
            )
        manager.set_blocked(name)
    for name in found:
        if name not in disabled:
            _load(manager, name, found[name])
    return manager


def _installed() -> dict[str, str]:
    """The distribution that each plugin comes from, by the plugin's name, sorted."""
    found: dict[str, str] = {}
    for entry in sorted(entry_points(group=GROUP)):
        distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        if entry.name in found:
            raise PluginError(
                f"Two plugins are named {entry.name!r}: one of {found[entry.name]} and one of {distribution}. "
                "Uninstall one of them."
            )
        found[entry.name] = distribution
    return found


def _load(manager: pluggy.PluginManager, name: str, distribution: str) -> None:
    which = f"The plugin {name!r} ({distribution}) cannot be"
    way_out = f"Mend or uninstall it, or go without it: plugins.disabled = [{name!r}]."
    hooks = ", ".join(sorted(hook for hook in vars(hookspecs) if hook.startswith("imgsim_")))
    try:
        manager.load_setuptools_entrypoints(GROUP, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        reason = " ".join(str(error).split())  # of several lines
        raise PluginError(f"{which} used: {reason}. There are the hooks: {hooks}. {way_out}") from error
    except Exception as error:
        raise PluginError(f"{which} imported: {type(error).__name__}: {error}. {way_out}") from error
    if not manager.get_hookcallers(manager.get_plugin(name)):
        raise PluginError(
            f"{which} used: it implements no hook. There are: {hooks}, each to be marked with @imgsim.hookimpl. "
            + way_out
        )


def collect_stages(manager: pluggy.PluginManager, settings: Any) -> list[StageOrigin]:
    """Every plugin's stages, in the order in which they run. ``PluginError`` names what cannot be used."""
    distributions = {plugin: f"{dist.project_name} {dist.version}" for plugin, dist in manager.list_plugin_distinfo()}
    origins: dict[str, StageOrigin] = {}
    registered = [(name, plugin) for name, plugin in manager.list_name_plugin() if plugin is not None]
    for name, plugin in sorted(registered, key=lambda pair: pair[0]):
        alone = manager.subset_hook_caller("imgsim_stages", [other for _, other in registered if other is not plugin])
        for stage in _stages_of(name, alone, settings):
            if stage.name in origins:
                raise PluginError(
                    f"Two stages are named {stage.name!r}: "
                    f"one of the plugin {origins[stage.name].plugin!r} and one of {name!r}."
                )
            origins[stage.name] = StageOrigin(stage, name, distributions.get(plugin, ""))
    if not origins:
        raise PluginError("There is no stage: plugins.disabled leaves none.")
    for name in settings.pipeline.stages:
        if name not in origins and name not in settings.plugins.disabled:
            raise PluginError(
                f"The setting pipeline.stages.{name} is for a stage that does not exist. "
                f"There are: {', '.join(sorted(origins))}."
            )
    return [origins[stage.name] for stage in order_stages([origin.stage for origin in origins.values()])]


def _stages_of(name: str, hook: pluggy.HookCaller, settings: Any) -> Iterator[Stage]:
    try:
        stages = [stage for group in hook(settings=settings) for stage in group]
    except Exception as error:
        raise PluginError(
            f"The plugin {name!r} failed in imgsim_stages, which must return a list of stages: "
            f"{type(error).__name__}: {error}."
        ) from error
    for stage in stages:
        if fault := _fault(stage):
            raise PluginError(f"The plugin {name!r} gave {stage!r}, which is no stage: {fault}.")
        yield stage


def _fault(stage: Any) -> str | None:
    if isinstance(stage, type):
        return "it is the class, not an instance of it"
    if not isinstance(stage, Stage):
        return "it needs name and run()"
    if not isinstance(stage.name, str) or not _STAGE_NAME.fullmatch(stage.name):
        return "its name must be of 1 to 100 letters, digits, dashes and underscores, the first a letter or digit"
    if not inspect.iscoroutinefunction(stage.run):
        return "its run must be an async function: async def run(self, ctx)"
    try:
        names: list[Any] = [*stage_names(stage, "after"), *stage_names(stage, "before")]
    except TypeError:
        names = [None]
    if not all(isinstance(name, str) for name in names):
        return "its after and before must be names of stages"
    return None
