"""Calls that have the server import in bulk."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec

from imgsim.client.caller import Caller, path_of
from imgsim.client.connection import Call
from imgsim.client.errors import NotFinished, local_error
from imgsim.client.models import Id
from imgsim.client.parameters import as_form, given
from imgsim.client.sources import Source, name_of, opened, readable
from imgsim.core.errors import InvalidRequest
from imgsim.core.imports import Failure, ImportState, ImportStatus

_SECONDS_BETWEEN_LOOKS = 0.5


class _ImportList(msgspec.Struct):
    imports: list[ImportStatus]


class ImportCalls(Caller):
    async def start_import(
        self,
        source: Source | None = None,
        *,
        filename: str | None = None,
        url: str | None = None,
        collection: str = "default",
        tags: Sequence[str] = (),
        on_copy: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> ImportStatus:
        """Import an archive, a table or a list of URLs, or the bucket at `url`; with `wait` as ``wait_for_import``.

        `filename` says of what kind bytes without a name are. Asked once, without retries: an import that began
        although its answer was lost goes on, and ``imports`` has it. ``OSError`` for the source.
        """
        if (source is None) == (url is None):
            raise local_error(InvalidRequest, "An import has either a source or the URL of a bucket.")
        fields = as_form(given(collection=collection, tags=list(tags) or None, on_copy=on_copy))
        with ExitStack() as stack:
            files: list[tuple[str, Any]] = [] if url is None else [("url", (None, url))]
            if source is not None:
                file = await self._exchange.call(opened, source, stack)
                files.append(("file", (name_of(source) if filename is None else readable(filename), file)))
            call = Call("POST", "/imports", data=fields, files=files, patient=False)
            started = (await self._connection.call(call)).decode(ImportStatus)
        return await self.wait_for_import(started.id, timeout) if wait else started

    async def get_import(self, import_id: Id) -> ImportStatus:
        return (await self._connection.call(Call("GET", path_of(import_id, "imports")))).decode(ImportStatus)

    async def wait_for_import(self, import_id: Id, timeout: float | None = None) -> ImportStatus:
        """The import once it is over (look at ``state``). ``NotFinished`` after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            status = await self.get_import(import_id)
            if status.state is not ImportState.RUNNING:
                return status
            if deadline is not None and time.monotonic() + _SECONDS_BETWEEN_LOOKS > deadline:
                raise NotFinished(f"The import {import_id} still runs after {timeout:g} s.")
            await self._exchange.sleep(_SECONDS_BETWEEN_LOOKS)

    async def imports(self) -> Sequence[ImportStatus]:
        """Those that run and the last that ended, newest first, as the process knows them that answers."""
        return (await self._connection.call(Call("GET", "/imports"))).decode(_ImportList).imports

    async def stop_import(self, import_id: Id) -> ImportStatus:
        """What is uploaded already is processed all the same, and stays."""
        return (await self._connection.call(Call("DELETE", path_of(import_id, "imports")))).decode(ImportStatus)

    async def import_failures(self, import_id: Id) -> AsyncGenerator[Failure, None]:
        """All that failed so far (at most 100,000), where the status has the first 100."""
        answer = await self._connection.call(Call("GET", f"{path_of(import_id, 'imports')}/failures"))
        for line in answer.response.content.splitlines():  # of bytes: JSON may have U+2028 within a line
            yield msgspec.json.decode(line, type=Failure)
