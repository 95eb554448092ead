"""Values that imgsim itself puts into a TOML file of settings, which people write by hand."""

import os
import shutil
import stat
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Table

from imgsim.core.errors import SettingsError

Chosen = Mapping[str, int | str]
"""Keys of ``[embedder]`` and their values."""


def as_toml(chosen: Chosen) -> str:
    return tomlkit.dumps({"embedder": chosen})


def with_chosen(path: Path, chosen: Chosen) -> str:
    """The text of the settings file `path` with `chosen` in ``[embedder]``, and all else as it is.

    ``SettingsError`` for a file that cannot be read or is not TOML, and for a folder that is not there.
    """
    try:
        document = tomlkit.parse(path.read_bytes() if path.exists() else b"")
    except OSError as error:
        raise SettingsError(f"The settings file {path} cannot be read: {error.strerror}.") from error
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise SettingsError(f"The settings file {path} is not TOML: {error}.") from error
    if not path.absolute().parent.is_dir():
        raise SettingsError(f"The settings file {path} cannot be written: there is no folder {path.parent}.")
    section = document.setdefault("embedder", tomlkit.table())
    if not isinstance(section, MutableMapping):
        raise SettingsError(f"The settings file {path} cannot be used: embedder must be a table.")
    _update(section, chosen)
    return tomlkit.dumps(document)


def _update(section: MutableMapping[str, Any], chosen: Chosen) -> None:
    """New keys go behind the last one: a comment behind that is the heading of the next section."""
    behind = []
    if isinstance(section, Table):
        body = section.value.body
        while body and body[-1][0] is None:
            behind.append(body.pop())
    section.update(chosen)
    if isinstance(section, Table):
        section.value.body.extend(reversed(behind))


def write_chosen(path: Path, chosen: Chosen) -> None:
    """All of it or nothing, and readable to no more than before. ``SettingsError`` as ``with_chosen``."""
    path = path.resolve()  # a link stays one
    text, part = with_chosen(path, chosen), path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        part.touch(mode=stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666)
        part.write_bytes(text.encode())
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SettingsError(f"The settings file {path} cannot be written: {error.strerror}.") from error


def overridden(chosen: Chosen) -> list[str]:
    """The environment variables that go before `chosen` in a file."""
    names = {f"IMGSIM_EMBEDDER__{key.upper()}" for key in chosen}
    return sorted(name for name in os.environ if name.upper() in names)
