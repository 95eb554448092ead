"""Embedders by the scheme of ``embedder.url``. Their libraries are imported when one is chosen."""

from collections.abc import Callable, Mapping
from pathlib import Path

from imgsim.core.errors import SettingsError
from imgsim.core.ports import Embedder
from imgsim.settings import Settings, mask_url

PACKAGED = "efficientnet-lite0"
"""The model whose weights come with imgsim."""


def _local(settings: Settings) -> Embedder:
    """A model in this process: the packaged one, or one of open_clip."""
    wanted = settings.embedder
    if wanted.model == PACKAGED:
        from imgsim.adapters.embedding.packaged import PackagedEmbedder

        return PackagedEmbedder(wanted.threads, wanted.queue)
    if "/" in wanted.model or wanted.model.startswith("local-dir:"):
        from imgsim.adapters.embedding.open_clip import OpenClipEmbedder

        return OpenClipEmbedder(
            wanted.model, wanted.threads, wanted.batch, wanted.queue, model_folder(settings), wanted.precision
        )
    raise SettingsError(
        f"The setting embedder.model cannot be used: {wanted.model!r} names no model. Valid: {PACKAGED} (packaged), or "
        "an open_clip model as ARCHITECTURE/PRETRAINED_TAG (ViT-B-32/laion2b_s34b_b79k) or ARCHITECTURE/FILE "
        "(ViT-B-32/weights.pt)."
    )


def model_folder(settings: Settings) -> Path:
    """Where exported models are kept."""
    named = settings.embedder.cache_dir
    return (Path(named).expanduser() if named else settings.data_dir / "models").absolute()


def _colour(settings: Settings) -> Embedder:
    from imgsim.adapters.embedding.colour import ColourEmbedder

    return ColourEmbedder()


def _remote(settings: Settings) -> Embedder:
    import httpx

    from imgsim.adapters.embedding.client import EncodeClient
    from imgsim.adapters.embedding.remote import RemoteEmbedder

    wanted = settings.embedder
    try:
        named = bool(httpx.URL(wanted.url).host)
    except httpx.InvalidURL:
        named = False
    if not named:
        raise SettingsError(
            f"The setting embedder.url cannot be used: {mask_url(wanted.url)!r} names no host and port."
        )
    client = EncodeClient(wanted.url, wanted.api_key.get_secret_value(), wanted.timeout_seconds)
    return RemoteEmbedder(client, wanted.batch, wanted.queue)


EMBEDDERS: Mapping[str, Callable[[Settings], Embedder]] = {
    "local": _local,
    "http": _remote,
    "https": _remote,
    "colour": _colour,
}
"""What ``embedder.url`` may start with, and what it makes. ``SettingsError`` for a model that is not there."""
