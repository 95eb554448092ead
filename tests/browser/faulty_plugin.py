"""A stage that fails, or waits, when a test wants it to: installed into a folder of its own, as a plugin is.

Images whose name begins with ``faulty`` fail while the folder ``FAULTS`` holds a file ``faulty``; those that begin with
``slow`` wait while there is a file ``slow``.
"""

from pathlib import Path

_CODE = """
import asyncio
import os
from pathlib import Path

from imgsim import hookimpl


class Gate:
    name = "gate"
    after = ("embed",)
    before = ("index",)

    async def run(self, ctx):
        folder = Path(os.environ["FAULTS"])
        if ctx.image.filename.startswith("faulty") and (folder / "faulty").exists():
            raise RuntimeError("The fault that the test wants")
        while ctx.image.filename.startswith("slow") and (folder / "slow").exists():
            await asyncio.sleep(0.01)
        return {"passed": True, "note": "<b>as</b> text"}


@hookimpl
def imgsim_stages(settings):
    return [Gate()]
"""


def install(site: Path) -> None:
    """Write it into `site`, which goes to ``PYTHONPATH``."""
    about = site / "imgsim_gate-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "imgsim_gate.py").write_text(_CODE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: imgsim-gate\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[imgsim]\ngate = imgsim_gate\n")
