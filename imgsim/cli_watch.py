"""``imgsim watch``. As ``cli_index``, it imports nothing but click above."""

import asyncio
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from imgsim.bulk_report import BulkReport
    from imgsim.core.errors import Unavailable
    from imgsim.core.imports import Failure
    from imgsim.sources import Item


@click.command()
@settings_options
@server_option
@json_option
@click.option("--collection", default="default", show_default=True, help="Collection the images go into.")
@click.option("--tag", "tags", multiple=True, help="Tag for each of them; may repeat.")
@on_copy_option
@click.option(
    "--settle",
    type=click.FloatRange(min=0.1, max=3600),
    default=1.0,
    show_default=True,
    help="Seconds for which a file must not have changed: somebody may still be writing it.",
)
@click.option("--poll", is_flag=True, help="Look once a second: for network folders, where the system tells nothing.")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
def watch(
    config: Path | None,
    data_dir: Path | None,
    server: str | None,
    as_json: bool,
    collection: str,
    tags: tuple[str, ...],
    on_copy: str,
    settle: float,
    poll: bool,
    folders: tuple[Path, ...],
) -> None:
    """Index folders, then what comes into them, until Ctrl-C.

    FOLDERS are followed with all that is below them: files that are written, moved or copied there. Hidden files,
    and what is no image, are passed over. A file is taken when it rests; one that is changed is taken again. What is
    removed from a folder stays indexed.

    A line on stderr for each image, and what failed with the reason; at the end a summary. A server or a part that
    is away is waited for, however long. The first Ctrl-C finishes what has begun.
    """
    from imgsim.core.services.ingest import valid_collection, valid_on_copy, valid_tags

    settings = settings_of(config, data_dir)
    valid_collection(collection)
    valid_tags(tags)
    valid_on_copy(on_copy, finds_copies=server is not None or settings.plugins.finds_copies)

    async def main() -> "BulkReport":
        from imgsim.bulk import BulkImport
        from imgsim.running import opened_reach
        from imgsim.sources.watched import WatchedFolders
        from imgsim.targets import open_target

        async with open_target(settings, server, work=True) as target, opened_reach(settings) as reach:
            teller = _Teller()
            source = WatchedFolders(folders, reach, settle, poll, lambda: teller.say("waiting for more"))
            bulk = BulkImport(
                target,
                collection,
                tags,
                on_copy=on_copy,
                pauses=_Forever(),
                on_indexed=teller.indexed,
                on_rejected=teller.rejected,
                on_pause=teller.waits,
                on_failure=teller.failed,
            )
            loop = asyncio.get_running_loop()

            def stop_softly() -> None:
                source.stop()
                bulk.stop()
                for number in _STOP:
                    loop.remove_signal_handler(number)  # the next one interrupts

            for number in _STOP:
                loop.add_signal_handler(number, stop_softly)
            teller.say(f"watching {source.label}; Ctrl-C stops")
            return await bulk.run(source)

    done = run(main())
    if as_json:
        print_json(done.summary())
    else:
        click.echo(str(done))
    if done.unavailable:
        click.echo(f"imgsim: {done.unavailable} Run the same command again to go on.", err=True)
    if not done.complete:
        raise SystemExit(1)


_STOP = (signal.SIGINT, signal.SIGTERM)


class _Forever:
    """Seconds between attempts, without end."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.5, 1.0, 2.0, 4.0), itertools.repeat(5.0))


class _Teller:
    """Lines on stderr."""

    _away = ""

    def say(self, line: str) -> None:
        click.echo(line, err=True)

    def indexed(self, item: "Item") -> None:
        self._away = ""
        self.say(f"indexed {item.label}")

    def rejected(self, item: "Item") -> None:
        self.say(f"rejected {item.label}")

    def failed(self, failure: "Failure") -> None:
        self.say(f"failed {failure.source}: {failure.reason}")

    def waits(self, error: "Unavailable") -> None:
        """Once for each outage, not for each image that waits."""
        if error.message != self._away:
            self._away = error.message
            self.say(f"waiting: {error.message}")
