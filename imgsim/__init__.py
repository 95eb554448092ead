"""imgsim: image upload, feature extraction and similarity search."""

from pluggy import HookimplMarker

__version__ = "0.1.0"

hookimpl = HookimplMarker("imgsim")
"""Marks a function of a plugin as an imgsim hook: ``@imgsim.hookimpl``."""
