"""``/health``, ``/ready``, ``/metrics``: for those who run it."""

import asyncio

from litestar import Controller, MediaType, Response, get

from imgsim import __version__
from imgsim.adapters.http import openapi
from imgsim.adapters.http.services import Injected
from imgsim.core.errors import ImgsimError
from imgsim.core.ports import Adapter

_SECONDS_TO_ANSWER = 2.0


class OperationsController(Controller):
    tags = ["operations"]
    opt = {"open": True}

    @get("/health", summary="200 while the process lives")
    async def health(self) -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    @get(
        "/ready",
        summary="200 when every part answers, else 503",
        responses={503: openapi.answer(openapi.Readiness, "A part does not answer")},
    )
    async def ready(self, services: Injected) -> Response[openapi.Readiness]:
        """One line per dependency: `ok`, or what is wrong with it."""
        adapters = services.adapters()
        answers = await asyncio.gather(*(_ask(adapter) for adapter in adapters.values()))
        checks = dict(zip(adapters, answers, strict=True))
        ready = all(answer == "ok" for answer in answers)
        return Response(
            openapi.Readiness("ready" if ready else "not ready", checks),
            status_code=200 if ready else 503,
            headers={} if ready else {"Retry-After": "5"},
        )

    @get(
        "/metrics",
        summary="Prometheus metrics",
        media_type=MediaType.TEXT,
        opt={"open": False},
    )
    async def metrics(self, services: Injected) -> Response[bytes]:
        """Also while parts do not answer: their figures are left out, and `imgsim_stock_up` is 0 for them."""
        figures = services.metrics()
        if services.tells_stock:
            await figures.stock.ask(services.images(), services.vectors(), services.jobs())
        return Response(figures.text(), media_type="text/plain; version=0.0.4")


async def _ask(adapter: Adapter) -> str:
    try:
        async with asyncio.timeout(_SECONDS_TO_ANSWER):
            await adapter.ping()
    except TimeoutError:
        return f"no answer within {_SECONDS_TO_ANSWER:g} s"
    except ImgsimError as error:
        return error.message
    return "ok"
