"""``imgsim index``. A file of its own, which ``imgsim --help`` reads too: so nothing but click is imported above."""

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgsim.cli_options import (
    json_option,
    on_copy_option,
    print_json,
    run,
    server_option,
    settings_of,
    settings_options,
)
from imgsim.core.errors import InvalidRequest

if TYPE_CHECKING:
    from imgsim.bulk_report import BulkReport, FailureLog
    from imgsim.sources import Reach, SourceChain


@click.command()
@settings_options
@server_option
@json_option
@click.option("--collection", default="default", show_default=True, help="Collection the images go into.")
@click.option("--tag", "tags", multiple=True, help="Tag for each of them; may repeat.")
@on_copy_option
@click.option("--urls", "lists", multiple=True, metavar="FILE", help="Text file of URLs (or paths), one in a line.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write all failures to this file, as JSON lines, and a summary at its end.",
)
@click.argument("sources", nargs=-1)
def index(
    config: Path | None,
    data_dir: Path | None,
    server: str | None,
    as_json: bool,
    collection: str,
    tags: tuple[str, ...],
    on_copy: str,
    lists: tuple[str, ...],
    report: Path | None,
    sources: tuple[str, ...],
) -> None:
    """Index images in bulk, and wait until they can be searched.

    SOURCES are images, folders with all that is below them, and what the lines say:

    \b
    PHOTOS.zip, .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz   the images in an archive
    s3://BUCKET/PREFIX?endpoint=URL&region=NAME          what lies in a bucket
    URL, or LIST.txt with one in each line               what is at URLs
    TABLE.csv, .tsv, .parquet                            a row for each image: path or url,
                                                         tags, collection, filename, metadata;
                                                         other columns become metadata
    -                                                    paths and URLs on standard input

    Hidden files, and what is no image in a folder or an archive, are passed over. Ctrl-C stops after the images
    that have begun, a second one at once; run it again and it goes on, since the same bytes are stored once.
    """
    from imgsim.bulk_report import FailureLog
    from imgsim.core.services.ingest import valid_collection, valid_on_copy, valid_tags

    settings = settings_of(config, data_dir)
    valid_collection(collection)
    valid_tags(tags)
    valid_on_copy(on_copy, finds_copies=server is not None or settings.plugins.finds_copies)
    _check(sources, lists)
    with contextlib.ExitStack() as opened:
        listed = opened.enter_context(_standard_input()) if "-" in (*sources, *lists) else None
        log = opened.enter_context(FailureLog(_written(report))) if report else None

        async def main() -> "BulkReport":
            from imgsim.running import opened_reach
            from imgsim.targets import open_target

            async with open_target(settings, server, work=True) as target, opened_reach(settings) as reach:
                stop = threading.Event()
                source = _chain(sources, lists, listed, replace(reach, stopping=stop.is_set))
                given = {"collection": collection, "tags": tags, "on_copy": on_copy}
                return await _import(target, source, given, log, stop)

        done = run(main())
        if log:
            log.end(done)
    _say(done, as_json, report)


def _check(sources: Sequence[str], lists: Sequence[str]) -> None:
    if not sources and not lists:
        raise click.UsageError("Missing argument 'SOURCES...'.")
    for place in (*sources, *lists):
        if place != "-" and "://" not in place[:8] and not Path(place).exists():
            raise click.BadParameter(f"Path {place!r} does not exist.")


def _standard_input() -> Any:
    """All of it, in a file: a thread that waits for a line could not be stopped."""
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 (the caller enters it)
    shutil.copyfileobj(sys.stdin.buffer, file)
    file.flush()
    return file


def _written(path: Path) -> Any:
    try:
        return path.open("wb+", buffering=0)
    except OSError as error:
        raise InvalidRequest(f"The report {path} cannot be written: {error.strerror}.") from error


def _chain(sources: Sequence[str], lists: Sequence[str], listed: Any, reach: "Reach") -> "SourceChain":
    from imgsim.sources import ListSource, SourceChain, source_at

    def at(place: str, is_list: bool) -> Any:
        if place == "-":
            return ListSource("standard input", lambda: Path(listed.name).open("rb"), Path(), reach)
        if is_list:
            return ListSource(place, lambda: Path(place).open("rb"), Path(place).parent, reach)
        return source_at(place, reach)

    return SourceChain([*(at(place, False) for place in sources), *(at(place, True) for place in lists)])


async def _import(
    target: Any,
    source: "SourceChain",
    given: dict[str, Any],
    log: "FailureLog | None",
    stopping: threading.Event,
) -> "BulkReport":
    from imgsim.bulk import BulkImport
    from imgsim.progress import progress_bar

    with progress_bar() as progress:
        bar = progress.add_task("", total=None)

        def show(report: "BulkReport") -> None:
            progress.update(bar, completed=report.seen)
            if report.failed and not stopping.is_set():
                progress.update(bar, description=f"[red]{report.failed} failed")

        def stop_softly() -> None:
            stopping.set()
            bulk.stop()
            loop.remove_signal_handler(signal.SIGINT)  # the next one interrupts
            progress.update(bar, description="stopping, once more to stop at once")

        def tell_total() -> None:
            progress.update(bar, total=source.count())

        loop = asyncio.get_running_loop()
        keep = log.write if log else lambda failure: None
        bulk = BulkImport(target, **given, on_progress=show, on_failure=keep)
        loop.add_signal_handler(signal.SIGINT, stop_softly)
        # Beside the work, since a large folder takes its time; and nobody waits for it at the end.
        threading.Thread(target=tell_total, daemon=True).start()
        done = await bulk.run(source)
        if not done.stopped:
            progress.update(bar, total=done.seen)
        return done


def _say(report: "BulkReport", as_json: bool, file: Path | None) -> None:
    if as_json:
        print_json(report.summary())
    else:
        click.echo(str(report))
        for failure in report.failures:
            click.echo(f"  {failure.source}: {failure.reason}", err=True)
        if more := report.failed - len(report.failures):
            click.echo(f"  and {more} more: {f'see {file}' if file else '--report FILE lists them all'}", err=True)
    if report.unavailable:
        click.echo(f"imgsim: {report.unavailable} Run the same command again to go on.", err=True)
        raise SystemExit(1)
    if report.stopped:
        click.echo("Stopped. Run the same command again to go on.", err=True)
        raise SystemExit(130)
    if report.failed:
        raise SystemExit(1)
