"""A client of imgsim's HTTP API, blocking (``Client``) and asynchronous (``AsyncClient``).

    from imgsim.client import Client

    with Client("http://127.0.0.1:8000") as imgsim:
        image = imgsim.upload("cat.jpg", wait=True)
        for hit in imgsim.similar(image.id).results:
            print(hit.score, hit.image.filename)

Needs httpx, tenacity, msgspec and numpy, and nothing of the server.
"""

from imgsim.client.blocking import Client
from imgsim.client.calls import AsyncClient
from imgsim.client.errors import ClientError, NotFinished
from imgsim.client.models import Encoded, Example, Filters, Health, Readiness
from imgsim.client.sources import Source
from imgsim.core.imports import Failure, ImportState, ImportStatus
from imgsim.core.models import DuplicateGroup, Image, ImageEvent, ImageState, SearchAnswer, SearchHit

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "DuplicateGroup",
    "Encoded",
    "Example",
    "Failure",
    "Filters",
    "Health",
    "Image",
    "ImageEvent",
    "ImageState",
    "ImportState",
    "ImportStatus",
    "NotFinished",
    "Readiness",
    "SearchAnswer",
    "SearchHit",
    "Source",
]
