"""``/imports``: many images at once, taken in while the client looks on or goes."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from litestar import Controller, Response, delete, get, post
from litestar.params import FromPath
from litestar.response import Stream
from litestar.status_codes import HTTP_200_OK, HTTP_202_ACCEPTED

from imgsim.adapters.http import openapi
from imgsim.adapters.http.bodies import AnyRequest, Form
from imgsim.adapters.http.large_forms import read_large_form
from imgsim.adapters.http.services import Injected
from imgsim.core.errors import InvalidRequest
from imgsim.core.imports import ImportStatus
from imgsim.core.models import OnCopy
from imgsim.imports import Given, ImportService
from imgsim.sources import check_name


@dataclass(frozen=True, slots=True)
class ImportList:
    """Newest first."""

    imports: Sequence[ImportStatus]


class ImportsController(Controller):
    path = "/imports"
    tags = ["imports"]

    @post(
        status_code=HTTP_202_ACCEPTED,
        summary="Import an archive, a table or a list of URLs",
        operation_class=openapi.import_body,
        responses={202: openapi.answer(ImportStatus, "It has begun"), **openapi.problems(403, 413, 503)},
    )
    async def start(self, request: AnyRequest, services: Injected) -> Response[ImportStatus]:
        """Zip and tar files, CSV and Parquet with a column `url`, text files of URLs; or an `url` of s3.

        Follow `Location`. One that a restart has cut off is sent again: what is stored already is not processed again.
        """
        imports = services.imports()
        with imports.place():
            limit, folder = services.max_import_bytes, imports.folder()
            check = partial(_check, imports)
            async with read_large_form(request, limit, folder, "imports.max_bytes", check) as form:
                check(form)
                given, url = _given(form), form.one("url")
                if bool(form.files) == bool(url):
                    raise InvalidRequest("The form has either a file in the field 'file', or an s3 URL in 'url'.")
                if url:
                    started = await imports.start_bucket(url, given)
                else:
                    file = form.files[0]
                    started = await imports.start_file(file.file, file.filename, given)
        return Response(started, status_code=202, headers={"Location": f"/imports/{started.id}"})

    @get("/", summary="The imports that this process knows of", responses=openapi.problems())
    async def list_imports(self, services: Injected) -> ImportList:
        """Newest first: those that run, and up to 100 that have ended, until the process ends."""
        return ImportList(services.imports().list())

    @get("/{import_id:uuid}", summary="How far an import is", responses=openapi.problems(404))
    async def get_import(self, services: Injected, import_id: FromPath[UUID]) -> ImportStatus:
        return services.imports().get(import_id)

    @get(
        "/{import_id:uuid}/failures",
        summary="What failed, as JSON lines",
        responses={200: openapi.answer(str, "A line for each", "application/x-ndjson"), **openapi.problems(404)},
    )
    async def get_failures(self, services: Injected, import_id: FromPath[UUID]) -> Stream:
        """`source`, `reason` and `type` of each, at most 100,000."""
        lines = services.imports().failures(import_id)
        await anext(lines)  # an import that is not there is an error, not half an answer

        async def rest() -> AsyncIterator[bytes]:
            async with aclosing(lines):
                async for chunk in lines:
                    yield chunk

        return Stream(rest(), media_type="application/x-ndjson")

    @delete(
        "/{import_id:uuid}",
        status_code=HTTP_200_OK,
        summary="Stop an import",
        responses=openapi.problems(404),
    )
    async def stop_import(self, services: Injected, import_id: FromPath[UUID]) -> ImportStatus:
        """What is uploaded already is processed all the same, and stays."""
        return await services.imports().stop_one(import_id)


def _check(imports: ImportService, form: Form) -> None:
    """What can be told without the rest of the body."""
    form.only({"collection", "tags", "url", "on_copy"})
    imports.check(_given(form))
    for file in form.files:
        check_name(file.filename)


def _given(form: Form) -> Given:
    tags = [tag for tag in form.fields.get("tags", []) if tag]
    return Given(form.one("collection", "default"), tags, form.one("on_copy") or OnCopy.ACCEPT)
