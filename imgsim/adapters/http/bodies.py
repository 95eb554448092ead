"""Request bodies: streamed to spooled files, short fields in memory, all bounded."""

import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser, parse_options_header

from imgsim.core.errors import InvalidRequest, TooLarge, Unavailable

AnyRequest = Request[Any, Any, Any]
T = TypeVar("T")

_IN_MEMORY = 1 << 20  # a file moves to disk when it grows beyond
_LARGEST_FIELD = 1 << 17
_LARGEST_JSON = 1 << 20
_MOST_PARTS = 256


@dataclass(slots=True)
class UploadedFile:
    file: BinaryIO
    filename: str
    sha256: str = ""
    """Hex digest, computed while the file comes in: 0.05 ms for 64 KiB where the processor helps."""


@dataclass(slots=True)
class Form:
    """What a multipart body held. Fields can repeat."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    files: list[UploadedFile] = field(default_factory=list)

    def one(self, name: str, default: str = "") -> str:
        values = self.fields.get(name, [default])
        if len(values) > 1:
            raise InvalidRequest(f"The field {name!r} was given {len(values)} times; once is enough.")
        return values[0]

    def only(self, known: set[str]) -> None:
        """Refuse misspelt fields."""
        for name in self.fields:
            if name not in known:
                raise InvalidRequest(
                    f"There is no field {name[:80]!r}. There are: {', '.join(['file', *sorted(known)])}."
                )


def media_type(request: AnyRequest) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


@asynccontextmanager
async def read_form(request: AnyRequest, max_file_bytes: int, max_files: int = 1) -> AsyncIterator[Form]:
    """The multipart form of `request`; its files live as long as the context.

    Files are the parts named ``file``. Raises ``InvalidRequest`` and ``TooLarge``, the latter as soon
    as a file grows beyond `max_file_bytes`.
    """
    with ExitStack() as opened:
        reader = FormReader(request, opened, FormLimits(max_file_bytes, max_files))
        async for chunk in body_chunks(request):
            reader.take(chunk)
        yield reader.end()


@dataclass(frozen=True, slots=True)
class FormLimits:
    file_bytes: int
    files: int = 1
    setting: str = "upload.max_bytes"
    """What says `file_bytes`."""
    folder: Path | None = None
    """Where files are written, without a name; None: small ones stay in memory."""
    check: Callable[[Form], None] = lambda form: None
    """Told of what came before a file, and of its name, when it begins; raises to refuse all that follows."""


class FormReader:
    """Takes a multipart form in pieces. `opened` closes the files of it."""

    def __init__(self, request: AnyRequest, opened: ExitStack, limits: FormLimits) -> None:
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind != "multipart/form-data" or not options.get("boundary"):
            raise InvalidRequest("The body must be multipart/form-data, with the file in the field 'file'.")
        self._parser = opened.enter_context(PushMultipartParser(options["boundary"], max_segment_count=_MOST_PARTS))
        self._opened = opened
        self._limits = limits
        self._form = Form()
        self._sink: _Sink | None = None

    def take(self, chunk: bytes) -> None:
        with self._translated():
            for part in self._parser.parse(chunk):
                if isinstance(part, MultipartSegment):
                    self._sink = _Sink.of(part, self._form, self._opened, self._limits)
                elif part and self._sink:
                    self._sink.write(bytes(part))
                elif self._sink:
                    self._sink.end()

    def end(self) -> Form:
        with self._translated():
            self._parser.close()
        return self._form

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(f"The upload cannot be kept while it comes in: {error.strerror}.") from error
        except ParserLimitReached as error:
            raise InvalidRequest(
                f"The form has too many parts or too long headers; at most {_MOST_PARTS} parts."
            ) from error
        except MultipartError as error:
            reason = error.args[0] if error.args else "it cannot be parsed"  # further arguments are for programmers
            raise InvalidRequest(f"The body is not valid multipart/form-data: {reason}.") from error


class _Sink:
    """Where the bytes of one part go."""

    def __init__(self, name: str, into: UploadedFile | bytearray, limit: int, form: Form, setting: str = "") -> None:
        self._name = name
        self._setting = setting and f" ({setting})"
        self._into = into
        self._limit = limit
        self._form = form
        self._size = 0
        self._digest = hashlib.sha256()

    @classmethod
    def of(cls, part: MultipartSegment, form: Form, opened: ExitStack, limits: FormLimits) -> "_Sink":
        if part.name != "file":
            if part.filename:
                raise InvalidRequest(f"The file must come in the field 'file', not {part.name[:80]!r}.")
            return cls(part.name, bytearray(), _LARGEST_FIELD, form)
        if len(form.files) == limits.files:
            raise InvalidRequest(f"At most {limits.files} file{'s' * (limits.files > 1)} can come in one request.")
        make: Any = tempfile.SpooledTemporaryFile if limits.folder is None else tempfile.TemporaryFile
        options = {"max_size": _IN_MEMORY} if limits.folder is None else {"dir": limits.folder}
        file = cast("BinaryIO", opened.enter_context(make(**options)))
        form.files.append(UploadedFile(file, part.filename or ""))
        limits.check(form)
        return cls(part.name, form.files[-1], limits.file_bytes, form, limits.setting)

    def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise TooLarge(f"The field {self._name[:80]!r} has more than {self._limit} bytes{self._setting}.")
        if isinstance(self._into, bytearray):
            self._into += data
        else:
            self._into.file.write(data)
            self._digest.update(data)

    def end(self) -> None:
        if isinstance(self._into, bytearray):
            try:
                text = self._into.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InvalidRequest(f"The field {self._name[:80]!r} is not UTF-8.") from error
            self._form.fields.setdefault(self._name, []).append(text)
        else:
            self._into.sha256 = self._digest.hexdigest()


@asynccontextmanager
async def read_raw(request: AnyRequest, max_bytes: int) -> AsyncIterator[BinaryIO]:
    """The whole body as a file that lives as long as the context. ``TooLarge``."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        size = 0
        async for chunk in body_chunks(request):
            size += len(chunk)
            if size > max_bytes:
                raise TooLarge(f"The body has more than {max_bytes} bytes (upload.max_bytes).")
            file.write(chunk)
        file.seek(0)
        yield cast("BinaryIO", file)


async def read_bytes(request: AnyRequest, max_bytes: int, what: str) -> bytearray:
    """The whole body, in memory. ``TooLarge`` says so of `what`."""
    body = bytearray()
    async for chunk in body_chunks(request):
        body += chunk
        if len(body) > max_bytes:
            raise TooLarge(f"{what} has more than {max_bytes} bytes.")
    return body


async def read_json(request: AnyRequest, kind: type[T]) -> T:
    """The JSON body as `kind` (a msgspec Struct). ``InvalidRequest`` says which value does not fit."""
    found = await read_json_if_any(request, kind)
    if found is None:
        raise InvalidRequest("The body is empty; it must be JSON.")
    return found


async def read_json_if_any(request: AnyRequest, kind: type[T]) -> T | None:
    """As ``read_json``; None for an empty body."""
    body = await read_bytes(request, _LARGEST_JSON, "The JSON body")
    return parse_json(body, kind, "The body") if body else None


def parse_json(text: str | bytes | bytearray, kind: type[T], what: str) -> T:
    """`text` as `kind`; NaN, half surrogate pairs and endless nesting are refused. `what` begins the sentence."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{what} does not fit: {error}.") from error


def convert(values: dict[str, Any], kind: type[T]) -> T:
    """Form fields (texts) as `kind`."""
    try:
        return msgspec.convert(values, type=kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The form does not fit: {error}.") from error


async def body_chunks(request: AnyRequest) -> AsyncIterator[bytes]:
    # Closed by hand: a generator left half read would be finalised by the garbage collector.
    async with contextlib.aclosing(request.stream()) as stream:
        try:
            async for chunk in stream:
                yield chunk
        except InternalServerException as error:  # what Litestar raises when the client has gone: no fault of ours
            raise InvalidRequest("The connection was closed before the body ended.") from error
