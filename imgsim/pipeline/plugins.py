"""Finding plugins: the entry-point group ``imgsim``, through which the built-in stages come too."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import pluggy

from imgsim.core.errors import PluginError
from imgsim.pipeline import hookspecs
from imgsim.pipeline.registry import order_stages
from imgsim.pipeline.stage import Stage

GROUP = "imgsim"


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
    known = {entry.name for entry in entry_points(group=GROUP)}
    for name in disabled:
        if name not in known:
            raise PluginError(
                f"plugins.disabled names {name!r}, which is no plugin. There are: {', '.join(sorted(known))}."
            )
        manager.set_blocked(name)
    for name in sorted(known.difference(disabled)):
        try:
            manager.load_setuptools_entrypoints(GROUP, name)
        except pluggy.PluginValidationError as error:
            raise PluginError(f"The plugin {name!r} cannot be used: {error}.") from error
        except Exception as error:
            raise PluginError(f"The plugin {name!r} cannot be imported: {type(error).__name__}: {error}.") from error
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        hooks = ", ".join(sorted(name for name in vars(hookspecs) if name.startswith("imgsim_")))
        raise PluginError(f"A plugin implements a hook that does not exist: {error}. There are: {hooks}.") from error
    return manager


def collect_stages(manager: pluggy.PluginManager, settings: Any) -> list[StageOrigin]:
    """Every plugin's stages, in the order in which they run."""
    distributions = {plugin: f"{dist.project_name} {dist.version}" for plugin, dist in manager.list_plugin_distinfo()}
    origins: dict[str, StageOrigin] = {}
    stages: list[Stage] = []
    registered = [(name, plugin) for name, plugin in manager.list_name_plugin() if plugin is not None]
    for name, plugin in sorted(registered, key=lambda pair: pair[0]):
        alone = manager.subset_hook_caller("imgsim_stages", [other for _, other in registered if other is not plugin])
        for group in alone(settings=settings):
            for stage in group:
                if not isinstance(stage, Stage) or not isinstance(stage.name, str):
                    raise PluginError(
                        f"The plugin {name!r} gave {stage!r}, which is no stage: it needs name and run()."
                    )
                stages.append(stage)
                origins[stage.name] = StageOrigin(stage, name, distributions.get(plugin, ""))
    return [origins[stage.name] for stage in order_stages(stages)]
