"""What the commands share: options, settings, errors as a sentence, JSON."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from imgsim.core.errors import ImgsimError, InvalidRequest, SettingsError

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Group(click.Group):
    """Errors of imgsim's own are a sentence on stderr, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ImgsimError as error:
            click.echo(f"imgsim: {error.message}", err=True)
            ctx.exit(2 if isinstance(error, SettingsError | InvalidRequest) else 1)
        except KeyboardInterrupt:
            ctx.exit(130)


class _StderrHandler(logging.StreamHandler[Any]):
    """Writes to what stderr is at the time: a progress bar puts itself in its place, and lets lines pass above it."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        """It is what it is."""


def settings_options(command: F) -> F:
    """``--config`` and ``--data-dir``."""
    command = click.option(
        "--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Folder of the embedded parts."
    )(command)
    return click.option(
        "--config", type=click.Path(path_type=Path, dir_okay=False), help="TOML file of settings [IMGSIM_CONFIG]."
    )(command)


def on_copy_option(command: F) -> F:
    """``--on-copy``."""
    return click.option(
        "--on-copy",
        type=click.Choice(["accept", "flag", "reject"]),
        default="accept",
        show_default=True,
        help="What to do with copies of what the collection has: flag gives them the tag copy, reject leaves them out.",
    )(command)


def listening_options(command: F) -> F:
    """``--host`` and ``--port``, beside those of all commands."""
    command = click.option("--port", type=int, help="Port to listen on, 0 for any free one [8000].")(command)
    return click.option("--host", help="Address to listen on [127.0.0.1].")(settings_options(command))


def filter_options(command: F) -> F:
    """Which images to search, as HTTP has it."""
    for option in (
        click.option("--exact", is_flag=True, help="Compare every full vector, whatever it takes."),
        click.option("--min-score", type=click.FloatRange(-1, 1), help="Cosine similarity at least."),
        click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Only with this value; may repeat."),
        click.option("--created-to", metavar="TIME", help="Stored before this date or date-time."),
        click.option("--created-from", metavar="TIME", help="Stored at this date or date-time (RFC 3339) or later."),
        click.option("--not-tag", multiple=True, help="Only without this tag; may repeat."),
        click.option("--any-tag", multiple=True, help="Only with one of these tags; may repeat."),
        click.option("--tag", multiple=True, help="Only with this tag; may repeat: all must match."),
        click.option("--collection", help="Only in this collection."),
    ):
        command = option(command)
    return command


def server_option(command: F) -> F:
    return click.option("--server", metavar="URL", help="Use this running server, not the data directory.")(command)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def settings_of(config: Path | None, data_dir: Path | None, **overrides: Any) -> Any:
    from imgsim.settings import load_settings

    given = {name: value for name, value in {"data_dir": data_dir, **overrides}.items() if value is not None}
    settings = load_settings(config, given)
    line = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    logging.basicConfig(level=settings.log.level.upper(), format=line, handlers=[_StderrHandler()])
    for chatty in ("aiobotocore", "httpx", "piccolo", "PIL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return settings


def run(main: Coroutine[Any, Any, T]) -> T:
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
