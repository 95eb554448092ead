"""Orders for the saboteur: which image a real server has trouble with, in which stage, and of what kind."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.faults import saboteur
from tests.faults.waiting import wait_until


class Orders:
    """Installs the saboteur in `folder` for the servers that get ``environment``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "orders"
        self._folder.mkdir()
        site = folder / "site"
        about = site / "saboteur-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: saboteur\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text("[imgsim]\nsaboteur = saboteur\n")
        shutil.copy(saboteur.__file__, site / "saboteur.py")
        paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment: Mapping[str, str] = {
            "PYTHONPATH": os.pathsep.join(paths),
            "IMGSIM_TEST_ORDERS": str(self._folder),
        }

    def give(self, stage: str, filename: str, word: str = "hold") -> None:
        """`word` is one of those in ``Saboteur.run``."""
        new = self._folder / "new"
        new.write_text(word)
        new.replace(self._order(stage, filename))  # never seen half written

    def withdraw(self, stage: str, filename: str) -> None:
        self._order(stage, filename).unlink()

    def obeyed(self, stage: str, filename: str) -> int:
        """How often the order was carried out, or begun."""
        order = self._order(stage, filename)
        count = order.with_name(f"{order.name}.obeyed")
        return count.stat().st_size if count.exists() else 0

    def wait_until_obeyed(self, stage: str, filename: str, times: int = 1) -> None:
        wait_until(lambda: self.obeyed(stage, filename) >= times, f"{stage} has reached {filename} {times} times")

    def _order(self, stage: str, filename: str) -> Path:
        return self._folder / f"{stage}={filename}"
