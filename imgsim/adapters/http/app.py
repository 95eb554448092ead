"""The Litestar app."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from litestar import Litestar, Response, Router
from litestar.di import Provide
from litestar.plugins.prometheus import PrometheusConfig

from imgsim.adapters.http.auth import api_key_guard
from imgsim.adapters.http.bucket_events import receive_bucket_event
from imgsim.adapters.http.collections import list_collections
from imgsim.adapters.http.duplicates import DuplicatesController
from imgsim.adapters.http.encode import describe, encode
from imgsim.adapters.http.events import EventsController
from imgsim.adapters.http.files import FilesController
from imgsim.adapters.http.images import ImagesController
from imgsim.adapters.http.imports import ImportsController
from imgsim.adapters.http.openapi import openapi_config
from imgsim.adapters.http.operations import OperationsController
from imgsim.adapters.http.page import PageController
from imgsim.adapters.http.problems import EXCEPTION_HANDLERS
from imgsim.adapters.http.search import SearchController
from imgsim.adapters.http.services import Services
from imgsim.adapters.http.sessions import SessionController
from imgsim.core.shown import shown

_MOST_ENCODED_FILES = 64
_LARGEST_FIELDS = 1 << 20  # of a form, beside its file


_ROUTES: Mapping[str, Sequence[Any]] = {
    "images": [
        ImagesController,
        FilesController,
        SearchController,
        DuplicatesController,
        EventsController,
        list_collections,
        receive_bucket_event,
    ],
    "encode": [encode, describe],
    "operations": [OperationsController],
    "page": [PageController, SessionController],
}


def create_app(services: Services, routes: Collection[str]) -> Litestar:
    """The groups of `routes` over `services`. Opens nothing: the container has opened the adapters."""
    handlers = [handler for group in sorted(routes) for handler in _ROUTES[group]]
    if "images" in routes:
        largest = services.max_import_bytes + _LARGEST_FIELDS
        handlers.append(Router("/", route_handlers=[ImportsController], request_max_body_size=largest))
    return Litestar(
        route_handlers=handlers,
        dependencies={"services": Provide(lambda: services, sync_to_thread=False, use_cache=True)},
        exception_handlers=EXCEPTION_HANDLERS,
        after_request=_show,
        guards=[api_key_guard(services.api_keys, services.loopback_only)],
        middleware=[PrometheusConfig(app_name="imgsim", prefix="imgsim_http", group_path=True).middleware],
        openapi_config=openapi_config(),
        # What one file may have is checked while it streams in; this bounds a body of many.
        request_max_body_size=services.max_upload_bytes * _MOST_ENCODED_FILES,
        logging_config=None,  # the command line has set it up
        debug=False,
    )


async def _show(response: Any) -> Any:
    """Of every route, so that none can forget it. Some give an ASGI app, which has no content to look at."""
    if isinstance(response, Response):
        response.content = shown(response.content)
    return response
