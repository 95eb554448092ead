"""From ``embedder.model`` to the files of an open_clip model: a named file, a folder, or a tag of a model hub.

Imports open_clip, and with it torch: call it off the event loop.
"""

import difflib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import open_clip
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

from imgsim.adapters.embedding.onnx_cache import FOLDER
from imgsim.core.errors import ModelError

CONFIG = "open_clip_config.json"

PROBE_SECONDS = 5.0
"""How long the hub may take to answer at all. Its own client repeats for 46 s when it cannot be reached."""

_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".npz")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where one model lies."""

    architecture: str
    """What open_clip is asked for: a name of its list, or a folder with its prefix."""
    name: str
    """``ARCHITECTURE/TAG``, or with the name of the file in place of the tag."""
    path: Path
    local: bool
    """Named by the user as a file or folder: then no hub is asked for anything."""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    """What the tag changes in the preprocessing of its architecture."""

    @property
    def files(self) -> list[Path]:
        """All that describes the model outside of open_clip."""
        folder = self.architecture.removeprefix(FOLDER)
        return [self.path] if folder == self.architecture else [self.path, Path(folder) / CONFIG]

    def model_id(self) -> str:
        """``NAME@`` and the first 12 hex digits of the file's SHA-256 (about 0.5 s for 600 MB)."""
        with self.path.open("rb") as file:
            return f"{self.name}@{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


def find_checkpoint(model: str) -> Checkpoint:
    """The checkpoint of ``ARCHITECTURE/TAG``, ``ARCHITECTURE/FILE`` or ``local-dir:FOLDER``; a tag's is downloaded.

    ``ModelError`` names what is wrong: the architecture, the tag, the file or the hub.
    """
    if model.startswith(FOLDER):
        return _in_folder(Path(model.removeprefix(FOLDER)).expanduser().absolute())
    architecture, _, rest = model.partition("/")
    if architecture not in open_clip.list_models():
        near = difflib.get_close_matches(architecture, open_clip.list_models(), n=4, cutoff=0.5)
        hint = f"Near ones: {', '.join(near)}. " if near else ""
        raise ModelError(
            f"open_clip has no architecture {architecture!r} (embedder.model is {model!r}). {hint}"
            "A model is named as ARCHITECTURE/PRETRAINED_TAG or ARCHITECTURE/FILE."
        )
    if tag := open_clip.get_pretrained_cfg(architecture, rest):
        return Checkpoint(architecture, model, _fetch(model, tag), local=False, preprocessing=tag)
    path = Path(rest).expanduser().absolute()
    if path.is_file():
        return Checkpoint(architecture, f"{architecture}/{path.name}", path, local=True)
    if rest.startswith(("~", ".")) or "/" in rest or path.suffix.lower() in _SUFFIXES:
        raise ModelError(f"There is no checkpoint file {path} (embedder.model is {model!r}).")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    known = f"Its tags: {', '.join(tags)}." if tags else "It has no tags: name a checkpoint file."
    raise ModelError(
        f"The architecture {architecture} has no pretrained tag {rest!r}, and there is no such file. {known}"
    )


def _in_folder(folder: Path) -> Checkpoint:
    path = folder / HF_SAFE_WEIGHTS_NAME
    for needed in (folder / CONFIG, path):
        if not needed.is_file():
            raise ModelError(f"The model folder {folder} needs {needed.name}, and there is no such file.")
    return Checkpoint(f"{FOLDER}{folder}", f"{folder.name}/{path.name}", path, local=True)


def _fetch(model: str, tag: Mapping[str, Any]) -> Path:
    """The file of a tag: from the hub client's cache without asking anyone, else downloaded."""
    import huggingface_hub

    repository, filename = os.path.split(tag.get("hf_hub") or "")
    source = tag.get("url") or ""
    if repository:
        filename = filename or HF_WEIGHTS_NAME
        safe = HF_SAFE_WEIGHTS_NAME if filename == HF_WEIGHTS_NAME else f"{os.path.splitext(filename)[0]}.safetensors"
        for name in (safe, filename):  # the order in which open_clip asks for them
            cached = huggingface_hub.try_to_load_from_cache(repository, name)
            if isinstance(cached, str):
                return Path(cached)
        source = huggingface_hub.hf_hub_url(repository, filename)
    try:
        if not huggingface_hub.is_offline_mode():
            httpx.head(source, timeout=PROBE_SECONDS)  # any answer will do: it says that somebody is there
        return Path(open_clip.download_pretrained(tag))
    except Exception as error:  # the two clients and open_clip raise many kinds, bare ones too
        raise ModelError(
            f"The weights of {model} cannot be fetched from {source}: {str(error)[:500]}. Where the hub cannot be "
            "reached, name a checkpoint file instead: embedder.model = ARCHITECTURE/FILE, as in ViT-B-32/weights.pt."
        ) from error
