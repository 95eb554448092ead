"""The hooks a plugin may implement, each marked with ``@imgsim.hookimpl``."""

from collections.abc import Sequence
from typing import Any

from pluggy import HookspecMarker

from imgsim.pipeline.stage import Stage

hookspec = HookspecMarker("imgsim")


@hookspec
def imgsim_stages(settings: Any) -> Sequence[Stage]:  # type: ignore[empty-body]
    """The stages that this plugin adds. Called once, at start, with the frozen settings tree."""
