"""One process owns a data directory."""

import json
import os
from pathlib import Path
from typing import IO, Any, Self

import portalocker

from imgsim.core.errors import DataDirectoryInUse, SettingsError


class DataDirectoryLock:
    """Held from entering to leaving, and let go by the operating system if the process dies.

    ``DataDirectoryInUse`` says who holds it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._file: IO[Any] | None = None

    def __enter__(self) -> Self:
        path = self._data_dir / "imgsim.lock"
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"The data directory {self._data_dir} cannot be used: {error.strerror}.") from error
        try:
            portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.LockException as error:
            file.seek(0)
            holder = _read(file.read())
            file.close()
            raise DataDirectoryInUse(_who(self._data_dir, holder)) from error
        self._file = file
        self.note()
        return self

    def note(self, url: str | None = None) -> None:
        """Write down who holds the lock, and at which `url` it can be asked, for those who come too late."""
        assert self._file is not None
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps({"pid": os.getpid(), "url": url}))
        self._file.flush()

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None


def _read(text: str) -> dict[str, Any]:
    try:
        holder = json.loads(text)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _who(data_dir: Path, holder: dict[str, Any]) -> str:
    pid = f" (pid {holder['pid']})" if holder.get("pid") else ""
    url = holder.get("url")
    way = f" It serves at {url}: use --server {url}." if url else " Stop it first, or use another --data-dir."
    return f"The data directory {data_dir} is in use by another imgsim{pid}.{way}"
