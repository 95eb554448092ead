"""One frozen settings tree: defaults, then a TOML file, then ``IMGSIM_*`` environment variables.

``[jobs] lease_seconds`` in TOML is ``IMGSIM_JOBS__LEASE_SECONDS`` in the environment. A key that
does not exist is an error that names the ones that do.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as EnvironmentValueError

from imgsim.core.errors import SettingsError


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _split_lists(cls, value: Any, info: Any) -> Any:
        """Lists in the environment: ``a,b`` or JSON."""
        if isinstance(value, str) and "tuple" in str(cls.model_fields[info.field_name].annotation):
            if value.lstrip().startswith("["):
                try:
                    return json.loads(value)
                except ValueError as error:
                    raise ValueError(f"it begins like a JSON list, but is none: {error}") from None
            return [part.strip() for part in value.split(",") if part.strip()]
        return value


class Objects(Section):
    url: str = Field(
        "",
        description="Where image bytes lie: file:///folder, s3://bucket/prefix?endpoint=URL&region=NAME (MinIO, SeaweedFS, AWS), or memory: for tests. Empty: objects/ in the data directory.",
    )
    public_endpoint: str = Field(
        "", description="The S3 endpoint as clients reach it, for presigned URLs. Empty: the endpoint of objects.url."
    )
    presign_seconds: int = Field(600, ge=1, le=604_800, description="How long a presigned URL works, in seconds.")


class Database(Section):
    url: str = Field(
        "",
        description="Where rows lie: sqlite:///file, postgresql://user:password@host/name, or memory: for tests. Empty: imgsim.sqlite in the data directory.",
    )
    pool_min: int = Field(1, ge=0, description="Connections to PostgreSQL that a process keeps open.")
    pool_max: int = Field(10, ge=1, description="Connections to PostgreSQL that a process opens at most.")


class Vectors(Section):
    url: str = Field(
        "",
        description="Where vectors lie: qdrant-edge:///folder, http(s)://qdrant:6333, postgresql://user:password@host/name (pgvector), or qdrant-memory: for tests. Empty: vectors/ in the data directory.",
    )
    api_key: SecretStr = Field(SecretStr(""), description="API key of the Qdrant server.")
    shards: int = Field(1, ge=1, description="Shards of a new collection on a Qdrant server.")
    replicas: int = Field(1, ge=1, description="Copies of each shard of a new collection on a Qdrant server.")
    quantization: str = Field(
        "int8",
        pattern="^(int8|none)$",
        description="How a Qdrant server keeps vectors in memory: int8 (a quarter of the memory; the best are scored again with the full vectors), or none.",
    )


class Jobs(Section):
    url: str = Field(
        "inprocess://",
        description="Who rings the bell for work, and carries events between processes: inprocess:// (this process), or redis://host:6379/0 (Arq).",
    )
    lease_seconds: float = Field(
        30.0, gt=0, description="How long a claim on an image holds without a heartbeat, in seconds."
    )
    reconcile_seconds: float = Field(
        5.0, gt=0, description="How often unfinished images without a live claim are looked for, in seconds."
    )
    max_attempts: int = Field(5, ge=1, description="Failed attempts after which an image rests in error.")
    concurrency: int = Field(16, ge=1, le=1024, description="Images that one process works on at a time.")
    backoff_seconds: float = Field(
        1.0, ge=0, description="Wait before the second attempt, in seconds; doubled for each further one, at most 300."
    )
    drain_seconds: float = Field(
        20.0, ge=0, description="How long a stopping process finishes its images before it hands them back, in seconds."
    )


class Embedding(Section):
    url: str = Field(
        "local:",
        description="Who embeds: local: (in this process), http(s)://embedder:8001 (imgsim embedder), or colour: (a colour histogram, for tests).",
    )
    model: str = Field(
        "efficientnet-lite0",
        description="The packaged efficientnet-lite0, or an open_clip model as ARCHITECTURE/PRETRAINED_TAG or ARCHITECTURE/PATH.pt (needs the extra clip).",
    )
    precision: str = Field(
        "fp32",
        pattern="^(fp32|int8|auto)$",
        description="What open_clip models compute images in: fp32, or int8 or auto: int8 where it passes a check on your own images, judged once while fp32 serves and used from the next start on; int8 warns where it does not pass.",
    )
    cache_dir: str = Field("", description="Where exported models are kept. Empty: models/ in the data directory.")
    timeout_seconds: float = Field(
        30.0, gt=0, description="How long a request to an embedder process may take, in seconds."
    )
    api_key: SecretStr = Field(SecretStr(""), description="API key that is sent to an embedder process.")
    threads: int = Field(0, ge=0, description="Threads that run the model; 0: one for each core.")
    batch: int = Field(
        4,
        ge=1,
        le=256,
        description="Pictures computed together at most, by open_clip models; the packaged one is fastest one by one.",
    )
    queue: int = Field(
        1024, ge=1, description="Pictures that may wait for the model before requests are refused with 503."
    )


class Fetch(Section):
    allow_private: bool = Field(
        False, description="Fetch image URLs also from private, loopback and link-local addresses."
    )
    timeout_seconds: float = Field(10.0, gt=0, description="How long fetching an image URL may take, in seconds.")
    max_redirects: int = Field(3, ge=0, description="Redirects that are followed when an image URL is fetched.")


class Imports(Section):
    max_bytes: int = Field(
        10_737_418_240, ge=1, description="Largest archive or table that POST /imports takes, in bytes."
    )
    folder: str = Field(
        "",
        description="Where they lie, without a name, until they are imported. Empty: imports/ in the data directory.",
    )
    at_once: int = Field(2, ge=1, le=16, description="Imports that run at a time; more are refused with 503.")
    concurrency: int = Field(
        8,
        ge=1,
        le=256,
        description="Images of an import under way at a time. Few, so that searches and uploads of people find a free place.",
    )
    s3: tuple[str, ...] = Field(
        (),
        description="Prefixes that clients may import from, as s3://bucket/prefix?endpoint=URL&region=NAME; none if empty.",
    )


class Upload(Section):
    max_bytes: int = Field(52_428_800, ge=1, description="Largest upload, in bytes.")
    max_pixels: int = Field(
        100_000_000, ge=1, description="Largest picture, width times height, checked in the header before decoding."
    )
    reservation_seconds: float = Field(
        3600.0,
        gt=0,
        le=604_800,
        description="How long an upload announced by POST /images/presign can be completed, in seconds; at most a week.",
    )
    buffer_bytes: int = Field(
        67_108_864,
        ge=0,
        description="Memory for decoded pictures on their way from the upload to the first stage, in bytes; 0 decodes again.",
    )


class Cache(Section):
    keep_seconds: float = Field(
        3600.0,
        ge=0,
        description="How long the embedding of deleted bytes is kept, so that a new upload is not embedded again, in seconds; 0 removes it with the image.",
    )


class Auth(Section):
    keys: tuple[SecretStr, ...] = Field(
        (), description="API keys, any of which opens the API. Empty: open to everyone, and then only on loopback."
    )
    allow_open: bool = Field(False, description="Allow an address other than loopback although auth.keys is empty.")


class EventsS3(Section):
    secret: SecretStr = Field(
        SecretStr(""),
        description="What POST /events/s3 wants as Authorization: Bearer (MinIO's auth_token). Empty: no bucket notifications are taken.",
    )
    sources: tuple[str, ...] = Field(
        (),
        description="Buckets whose new objects are taken in, each s3://bucket/prefix?endpoint=URL&region=NAME; no others are ever read.",
    )
    collection: str = Field(
        "default", pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="Collection that they go into."
    )


class Stage(Section):
    timeout_seconds: float | None = Field(None, gt=0, description="Overrides pipeline.timeout_seconds for this stage.")
    retries: int | None = Field(None, ge=0, description="Overrides pipeline.retries for this stage.")


class Pipeline(Section):
    timeout_seconds: float = Field(120.0, gt=0, description="How long one run of a stage may take, in seconds.")
    retries: int = Field(0, ge=0, description="How often a failed stage is run again at once, within the same attempt.")
    stages: dict[str, Stage] = Field({}, description="The two keys above for one stage: [pipeline.stages.NAME].")


class Plugins(Section):
    disabled: tuple[str, ...] = Field((), description="Plugins that are not loaded, by name.")

    @property
    def finds_copies(self) -> bool:
        """Whether uploads are compared with what is there."""
        return "copies" not in self.disabled


class Log(Section):
    level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error.")


class Settings(BaseSettings):
    """Every setting of imgsim."""

    model_config = SettingsConfigDict(
        env_prefix="IMGSIM_",
        env_nested_delimiter="__",
        enable_decoding=False,
        frozen=True,
        extra="forbid",
        validate_default=True,
    )

    data_dir: Path = Field(
        Path("imgsim-data"), description="The folder under which the embedded parts keep everything."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    objects: Objects = Objects()
    database: Database = Database()
    vectors: Vectors = Vectors()
    jobs: Jobs = Jobs()
    embedder: Embedding = Embedding()
    upload: Upload = Upload()
    imports: Imports = Imports()
    fetch: Fetch = Fetch()
    cache: Cache = Cache()
    auth: Auth = Auth()
    events_s3: EventsS3 = EventsS3()
    pipeline: Pipeline = Pipeline()
    plugins: Plugins = Plugins()
    log: Log = Log()

    @field_validator("data_dir")
    @classmethod
    def _at_home(cls, value: Path) -> Path:
        return value.expanduser()

    def part_url(self, part: str) -> str:
        """The URL of a part; where it is empty, that of the place in the data directory."""
        url: str = getattr(self, part).url
        if url:
            return url
        scheme, name = {
            "objects": ("file", "objects"),
            "database": ("sqlite", "imgsim.sqlite"),
            "vectors": ("qdrant-edge", "vectors"),
        }[part]
        return f"{scheme}://{(self.data_dir.absolute() / name).as_posix()}"

    def embedded(self, part: str) -> bool:
        """Whether ``objects``, ``database``, ``vectors`` or ``jobs`` lives in one process alone."""
        return self.part_url(part).partition(":")[0] in _EMBEDDED


_EMBEDDED = ("file", "memory", "sqlite", "qdrant-edge", "qdrant-memory", "inprocess")
"""The schemes of parts that live in one process; all others are servers, which many processes share."""


def load_settings(
    config: Path | None = None, overrides: Mapping[str, Any] | None = None, environment: bool = True
) -> Settings:
    """The effective settings: defaults < TOML file < environment < `overrides` (from the command line).

    `config` falls back to ``IMGSIM_CONFIG``; not `environment`, no variable counts, that one included.
    ``SettingsError`` names every value that cannot be used.
    """
    if environment:
        _check_environment(os.environ)
        if config is None and os.environ.get("IMGSIM_CONFIG"):
            config = Path(os.environ["IMGSIM_CONFIG"])
    from_file = _read_toml(config) if config else {}

    class Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            given = InitSettingsSource(settings_cls, init_kwargs=dict(overrides or {}))
            file = InitSettingsSource(settings_cls, init_kwargs=from_file)
            return (given, env_settings, file) if environment else (given, file)

    try:
        return Loaded()
    except (ValidationError, EnvironmentValueError) as error:
        raise SettingsError(_explain(error)) from error


def describe(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """``(key, value, sentence)`` of every setting in order, secrets masked, values as TOML."""
    for key, field, value in _walk(settings):
        yield key, _toml_value(_masked(value)), field.description or ""


def masked_values(settings: Settings) -> dict[str, Any]:
    """The value of every setting by its key, secrets masked, as JSON has them."""
    return {key: _masked(value) for key, _, value in _walk(settings)}


def _walk(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, Section):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field, value


def _masked(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _masked(dict(value))
    if isinstance(value, Mapping):
        return {name: _masked(item) for name, item in value.items() if item is not None}
    if isinstance(value, tuple):
        return [_masked(item) for item in value]
    return value if isinstance(value, bool | int | float) else mask_url(str(value))


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{name} = {_toml_value(item)}" for name, item in value.items())
        return "{ " + inner + " }" if inner else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


_PASSWORD = re.compile(r"(://[^/@:\s]*:)[^/\s]+(?=@)")
_SECRET_PARAMETER = re.compile(
    r"([?&][^?&=#\s]*(?:password|secret|token|api[_-]?key)[^?&=#\s]*=)[^&#\s]+", re.IGNORECASE
)


def mask_url(text: str) -> str:
    """`text` without the password of a URL in it, nor what its query has as a password, secret, token or API key."""
    return _SECRET_PARAMETER.sub(r"\1**********", _PASSWORD.sub(r"\1**********", text))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"The settings file {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"The settings file {path} is not TOML: {error}.") from error


# Names that the environment may hold beside the settings.
_OTHER_NAMES = ("IMGSIM_CONFIG",)


def _check_environment(environment: Mapping[str, str]) -> None:
    """Misspelt sections would be passed over in silence: pydantic only looks for the names it knows."""
    for name in environment:
        if name.startswith("IMGSIM_") and not name.startswith("IMGSIM_TEST_") and name not in _OTHER_NAMES:
            first = name.removeprefix("IMGSIM_").split("__")[0].lower()
            if first not in Settings.model_fields:
                key = name.removeprefix("IMGSIM_").replace("__", ".").lower()
                raise SettingsError(
                    f"The environment variable {name} names no setting. {_suggest(key, _environment_name)}"
                )


def _explain(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"There is no setting {key}. {_suggest(key)}")
        else:
            secret = isinstance(problem["input"], Mapping) or problem["loc"][0] == "auth"
            shown = "" if secret else f" (got {mask_url(str(problem['input']))!r})"
            reason = problem["msg"].removeprefix("Value error, ")
            lines.append(f"The setting {key} cannot be used: {reason}{shown}.")
    return " ".join(lines)


def _suggest(key: str, shown: Callable[[str], str] = str) -> str:
    keys = [name for name, _, _ in _walk(Settings.model_construct())]
    section = key.split(".")[0]
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    hint = f"Did you mean {shown(near[0])}? " if near else ""
    siblings = [name for name in keys if name.split(".")[0] == section] or sorted({n.split(".")[0] for n in keys})
    return f"{hint}Valid: {', '.join(shown(name) for name in siblings)}."


def _environment_name(key: str) -> str:
    return "IMGSIM_" + key.upper().replace(".", "__")
