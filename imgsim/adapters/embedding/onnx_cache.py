"""The folder of exported models: found by the name in the settings, without open_clip and torch.

A model lies in a folder ``NAME@DIGEST-CONFIG-VERSION`` with ``model.onnx`` and ``about.json``; a file
``KEY.json`` says which folder the value of ``embedder.model`` leads to, and from which files it was made.
What is in a folder was finished, and on the disk, before the folder got its name.
"""

import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import portalocker

from imgsim.adapters.embedding.preprocess import Preprocess

log = logging.getLogger(__name__)

VERSION = 1
"""Of the export code: a change of what it writes makes all models anew."""

NETWORK = "model.onnx"

FOLDER = "local-dir:"
"""open_clip's prefix for a folder with ``open_clip_config.json`` and ``open_clip_model.safetensors``."""

_UNREADABLE = (OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True, slots=True)
class About:
    """What there is to say about a model once its image tower was looked at."""

    model_id: str
    preprocessing: str
    dimensions: int
    preprocess: Preprocess
    way: str
    """``plain`` or ``stock``: which form the export has; ``torch``: none was exact."""
    reason: str
    """Why it is not a better way; empty for ``plain``."""


@dataclass(frozen=True, slots=True)
class Found:
    """A model as a process opens it."""

    folder: Path
    about: About
    no_text_reason: str = ""
    """Why there is no tokenizer; empty where there is one."""

    @property
    def network(self) -> Path:
        return self.folder / NETWORK


class ModelCache:
    """Exported models below `folder`, which many processes of one machine may share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, model: str) -> Found | None:
        """The export of `model`; None when there is none that can be read, or its weights have changed since."""
        try:
            pointer = read_json(self._pointer(model))
            if (pointer["version"], pointer["open_clip"]) != (VERSION, _open_clip_version()):
                return None
            if pointer["files"] != [_stamp(name) for name, *_ in pointer["files"]]:
                return None
        except (*_UNREADABLE, importlib.metadata.PackageNotFoundError):
            return None
        return self.kept(self.folder / pointer["folder"])

    def kept(self, folder: Path) -> Found | None:
        """What lies in `folder`, where that is whole."""
        try:
            found = Found(folder, _read_about(folder))
        except _UNREADABLE:
            return None
        return found if found.about.way == "torch" or found.network.is_file() else None

    def forget(self, found: Found) -> None:
        """Remove an export that cannot be used."""
        shutil.rmtree(found.folder, ignore_errors=True)

    def point(self, model: str, found: Found, files: list[Path]) -> None:
        """From now on `model` leads to `found`, while `files` stay as they are."""
        content = {
            "model": model,
            "version": VERSION,
            "open_clip": _open_clip_version(),
            "files": [_stamp(file) for file in files],
            "folder": found.folder.name,
        }
        write_json(self._pointer(model), content)

    def folder_of(self, model_id: str, config: Mapping[str, Any]) -> Path:
        """Where the export of these weights lies; `config` holds what else its vectors depend on."""
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:8]
        return self.folder / f"{re.sub(r'[^A-Za-z0-9._@-]', '_', model_id)}-{digest}-{VERSION}"

    def keep(self, folder: Path, about: About, made: Path) -> None:
        """Give what lies in `made` its place. Call with ``exclusive`` held."""
        for file in made.iterdir():
            sync(file)
        write_json(made / "about.json", asdict(about))
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)
        sync(folder.parent)

    @contextmanager
    def exclusive(self) -> Iterator[Path]:
        """The one process that writes, and a folder for what it makes; others wait.

        The lock ends with its process, so a ``making-`` folder that is found belongs to nobody.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "models.lock").open("a") as file:
            _lock(file)
            for left in self.folder.glob("making-*"):
                shutil.rmtree(left, ignore_errors=True)
            made = self.folder / f"making-{os.getpid()}"
            made.mkdir()
            try:
                yield made
            finally:
                shutil.rmtree(made, ignore_errors=True)

    def _pointer(self, model: str) -> Path:
        # A relative path is another file elsewhere.
        rest = model.removeprefix(FOLDER) if model.startswith(FOLDER) else model.partition("/")[2]
        path = Path(rest).expanduser().absolute()
        named = f"{model}\n{path}" if path.exists() else model
        return self.folder / f"{hashlib.sha256(named.encode()).hexdigest()[:16]}.json"


def _lock(file: IO[Any]) -> None:
    try:
        portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.LockException:
        log.info("another process is preparing a model in %s: waiting for it", Path(file.name).parent)
        portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """All of it or nothing, and on the disk with the other names in its folder. Call with ``exclusive`` held."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(content, indent=1), encoding="utf-8")
    sync(part)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring the content of a file, or the names in a folder, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders; NTFS journals its names
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> dict[str, Any]:
    """``OSError`` or ``ValueError`` where there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _read_about(folder: Path) -> About:
    content = read_json(folder / "about.json")
    preprocess = content.pop("preprocess")
    preprocess |= {name: tuple(preprocess[name]) for name in ("mean", "std")}
    return About(**content, preprocess=Preprocess(**preprocess))


def _stamp(file: str | Path) -> list[Any]:
    """What changes when somebody writes a file."""
    state = os.stat(file)
    return [str(file), state.st_size, state.st_mtime_ns]


def _open_clip_version() -> str:
    """Tags and architectures are described by open_clip: another version of it may mean others by them."""
    return importlib.metadata.version("open_clip_torch")
