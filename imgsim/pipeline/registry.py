"""The order of the stages."""

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from imgsim.core.errors import PluginError
from imgsim.pipeline.stage import Stage, stage_names


def order_stages(stages: Sequence[Stage]) -> list[Stage]:
    """Topological order of ``after`` and ``before``; what these leave open is decided by name.

    ``PluginError`` for two stages of one name, a name that no stage has, and a cycle.
    """
    by_name: dict[str, Stage] = {}
    for stage in stages:
        if stage.name in by_name:
            raise PluginError(f"Two stages are named {stage.name!r}.")
        by_name[stage.name] = stage
    predecessors: dict[str, set[str]] = {name: set() for name in by_name}
    for stage in stages:
        for relation in ("after", "before"):
            for other in stage_names(stage, relation):
                if other not in by_name:
                    raise PluginError(
                        f"The stage {stage.name!r} is to run {relation} {other!r}, but no stage is named so. "
                        f"There are: {', '.join(sorted(by_name))}."
                    )
                first, second = (other, stage.name) if relation == "after" else (stage.name, other)
                predecessors[second].add(first)
    sorter = TopologicalSorter(predecessors)
    try:
        sorter.prepare()
    except CycleError as error:
        raise PluginError(f"The stages wait for each other: {' → '.join(error.args[1])}.") from error
    ordered: list[Stage] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        ordered += [by_name[name] for name in ready]
        sorter.done(*ready)
    return ordered
