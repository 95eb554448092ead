"""The connection to a Qdrant server."""

import httpx
from qdrant_client import AsyncQdrantClient

from imgsim.adapters.vectors.qdrant import QdrantVectorIndex
from imgsim.adapters.vectors.qdrant_options import ServerOptions
from imgsim.core.errors import SettingsError
from imgsim.settings import Settings, mask_url

CONNECT_SECONDS = 3
"""How long a server may take to accept a connection."""

ANSWER_SECONDS = 30
"""How long it may take for everything else: a write waits until it is applied."""

CONNECTIONS = 16


def qdrant_server_vector_index(settings: Settings) -> QdrantVectorIndex:
    """An index on the server at ``vectors.url``, by HTTP or HTTPS. Without a port in it, Qdrant's own: 6333.

    ``SettingsError`` where the URL is none.
    """
    url, key = settings.part_url("vectors"), settings.vectors.api_key.get_secret_value()
    options = ServerOptions(
        shards=settings.vectors.shards,
        replicas=settings.vectors.replicas,
        quantized=settings.vectors.quantization == "int8",
    )
    try:
        if not httpx.URL(url).host:
            raise ValueError("it names no host")
        client = AsyncQdrantClient(
            url=url,
            headers={"api-key": key} if key else None,  # as api_key the client warns of every http: URL
            timeout=ANSWER_SECONDS,
            check_compatibility=False,  # it asks in a thread of its own and warns on the standard error stream
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            event_hooks={"request": [_connect_soon]},
        )
    except (ValueError, httpx.InvalidURL) as error:
        raise SettingsError(f"The setting vectors.url cannot be used: {error} (got {mask_url(url)!r}).") from error
    return QdrantVectorIndex(client, options)


async def _connect_soon(request: httpx.Request) -> None:
    """The client knows one timeout for all; a server that is away is to be noticed sooner."""
    request.extensions["timeout"]["connect"] = CONNECT_SECONDS
