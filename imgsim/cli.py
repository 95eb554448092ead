"""The command line. Results on stdout, messages on stderr; exit status 0 only on success."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import click

from imgsim import __version__
from imgsim.cli_index import index
from imgsim.cli_options import (
    Group,
    filter_options,
    json_option,
    listening_options,
    print_json,
    run,
    server_option,
    settings_of,
    settings_options,
)
from imgsim.cli_watch import watch
from imgsim.core.errors import ImgsimError, SettingsError


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="imgsim")
def cli() -> None:
    """Image upload, feature extraction and similarity search.

    \b
    imgsim serve                          start the server, everything in one process
    imgsim index ~/Pictures               index a folder, an archive, a table
    imgsim watch ~/Pictures               index a folder, and what comes into it
    imgsim search --image cat.jpg         what looks like this?

    index, watch, search, status and retry work on the data directory, or on a running server with --server URL.
    """


@cli.command()
@listening_options
def serve(config: Path | None, data_dir: Path | None, host: str | None, port: int | None) -> None:
    """Run everything in one process: API, processing, model, storage.

    Needs no other server, no download and no account. Stop it with Ctrl-C: it finishes the images
    it works on, and goes on with the others at the next start; a second Ctrl-C leaves those, too.
    """
    run(_serve("serve", settings_of(config, data_dir, host=host, port=port)))


@cli.command()
@listening_options
def api(config: Path | None, data_dir: Path | None, host: str | None, port: int | None) -> None:
    """Run the HTTP API alone; workers process the images.

    Any number of them may run over the same object store, PostgreSQL, vector index and Redis; see
    config/cluster.toml. Keeps nothing of its own.
    """
    run(_serve("api", settings_of(config, data_dir, host=host, port=port)))


@cli.command()
@listening_options
def worker(config: Path | None, data_dir: Path | None, host: str | None, port: int | None) -> None:
    """Process images that an API has taken in; any number of workers may run.

    Listens for /health, /ready and /metrics only. Stopped by SIGTERM or Ctrl-C, it finishes the images
    it works on, or hands them back. Takes no more while a server it needs does not answer.
    """
    run(_serve("worker", settings_of(config, data_dir, host=host, port=port)))


@cli.command()
@listening_options
def embedder(config: Path | None, data_dir: Path | None, host: str | None, port: int | None) -> None:
    """Run the embedding service alone: POST /encode.

    Workers and APIs use it where embedder.url is its address; so can anybody who wants vectors only.
    """
    run(_serve("embedder", settings_of(config, data_dir, host=host, port=port)))


async def _serve(role: str, settings: Any) -> None:
    from contextlib import AsyncExitStack

    from imgsim import roles
    from imgsim.container import Container
    from imgsim.memory import limit_arenas, settle
    from imgsim.running import end_streams, opened, working
    from imgsim.serving import bind, check_exposure
    from imgsim.serving import serve as serve_http

    check_exposure(settings)
    limit_arenas()
    container = Container(settings=settings, role=roles.BY_NAME[role])
    app = container.app()
    async with opened(container, patient=True), AsyncExitStack() as stack:
        listening, url = bind(settings)
        if role == "serve":
            container.lock().note(url)
        settle()
        works = container.role().works
        if works:
            await stack.enter_async_context(working(container))
        banner = _next_steps(role, url, settings, container.embedder().model_id)
        await serve_http(
            app,
            listening,
            on_start=lambda: click.echo(banner, err=True),
            on_stop=lambda: end_streams(container),
            on_hurry=container.runner().hurry if works else lambda: None,
        )


def _next_steps(role: str, url: str, settings: Any, model: str) -> str:
    key = ' -H "Authorization: Bearer KEY"' if settings.auth.keys else ""
    if role == "worker":
        return f"imgsim {__version__} worker is ready at {url} (model {model})"
    if role == "embedder":
        encode = f"curl{key} -F file=@cat.jpg {url}/encode"
        return f"imgsim {__version__} embedder is ready at {url} (model {model})\n\n  {encode}\n"
    where = f", data in {settings.data_dir}" if role == "serve" else ""
    return f"""
imgsim {__version__} is ready at {url} (model {model}{where})

  Open the web page      {url}/
  Upload an image        curl{key} -F file=@cat.jpg {url}/images/upload
  Ask for similar ones   curl{key} {url}/images/ID/similar
  Search by a file       curl{key} -F file=@cat.jpg {url}/search
  Index a folder         imgsim index --server {url} ~/Pictures
  API documentation      {url}/schema

Ctrl-C stops it.
"""


cli.add_command(index)
cli.add_command(watch)


@cli.command()
@settings_options
@server_option
@json_option
@click.option("--image", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Search by this file.")
@click.option("--text", help="Search by this text, where the model can.")
@click.option("-k", "limit", type=click.IntRange(1, 100), default=10, show_default=True, help="How many results.")
@filter_options
def search(
    config: Path | None,
    data_dir: Path | None,
    server: str | None,
    as_json: bool,
    image: Path | None,
    text: str | None,
    limit: int,
    min_score: float | None,
    exact: bool,
    collection: str | None,
    tag: tuple[str, ...],
    any_tag: tuple[str, ...],
    not_tag: tuple[str, ...],
    created_from: str | None,
    created_to: str | None,
    metadata: tuple[str, ...],
) -> None:
    """Find images that look like a file, or fit a text.

    The file is not stored. Without --collection all collections are searched. Each result is a line: its score, how
    many of 100 random pairs of images are less alike (a file's results only), its id and its path.
    """
    from imgsim.core.filters import parse_filter
    from imgsim.core.services.search import Page
    from imgsim.targets import Json, open_target

    if (image is None) == (text is None):
        raise click.UsageError("Give either --image FILE or --text TEXT.")
    settings = settings_of(config, data_dir)
    page = Page(limit, min_score, exact=exact)
    where = parse_filter(
        collection=collection,
        tag=tag,
        any_tag=any_tag,
        not_tag=not_tag,
        created_from=created_from,
        created_to=created_to,
        metadata=metadata,
    )

    async def main() -> Json:
        async with open_target(settings, server) as target:
            if image is not None:
                return await target.search_image(image, page, where)
            return await target.search_text(text or "", page, where)

    answer = run(main())
    if as_json:
        print_json(answer)
        return
    for hit in answer["results"]:
        found = hit["image"]
        percentile = "" if hit["percentile"] is None else f"{hit['percentile']:.1f} %"
        path = found["metadata"].get("path") or found["filename"]
        click.echo(f"{hit['score']:.4f}  {percentile:>7}  {found['id']}  {path}")
    if not answer["results"]:
        place = f"in the collection {collection!r}" if collection else f"in {server or settings.data_dir}"
        if page == Page(limit, exact=exact) and where == parse_filter(collection=collection):
            click.echo(f"Nothing found: no image {place} is indexed. imgsim index PATH adds some.", err=True)
        else:
            click.echo(f"Nothing found: no image {place} passes the filters.", err=True)


@cli.command()
@settings_options
@server_option
@json_option
def status(config: Path | None, data_dir: Path | None, server: str | None, as_json: bool) -> None:
    """Show images by state, and whether all parts answer.

    The exit status is 1 if one does not.
    """
    from imgsim.targets import Json, open_target

    settings = settings_of(config, data_dir)

    async def main() -> Json:
        async with open_target(settings, server) as target:
            return await target.status()

    found = run(main())
    if as_json:
        print_json(found)
    else:
        for name, value in found.items():
            lines = value.items() if isinstance(value, dict) else [("", value)]
            for label, figure in lines:
                click.echo(f"{name:<9} {label:<22} {figure}" if label else f"{name:<9} {figure}")
    if any(answer != "ok" for answer in found["checks"].values()):
        raise SystemExit(1)


@cli.command()
@settings_options
@server_option
@json_option
@click.argument("ids", nargs=-1)
def retry(config: Path | None, data_dir: Path | None, server: str | None, as_json: bool, ids: tuple[str, ...]) -> None:
    """Process images in error again, and wait for the outcome.

    IDS are those of the images; without any, all images in error are tried again.
    """
    from imgsim.targets import Json, open_target

    settings = settings_of(config, data_dir)
    refused: dict[str, str] = {}

    async def main() -> list[Json]:
        async with open_target(settings, server, work=True) as target:
            chosen = list(dict.fromkeys(ids)) or await target.failed()
            for image_id in chosen:
                try:
                    await target.retry(image_id)
                except ImgsimError as error:
                    refused[image_id] = error.message
            return [await target.wait(image_id) for image_id in chosen if image_id not in refused]

    images = run(main())
    failed = [image for image in images if image["state"] == "error"]
    if as_json:
        print_json({"done": len(images) - len(failed), "failed": failed, "refused": refused})
    elif not images and not refused:
        click.echo("No image is in error.")
    else:
        click.echo(f"{len(images) - len(failed)} done, {len(failed)} failed again")
        for image in failed:
            click.echo(f"  {image['id']}: {image['error']['stage']}: {image['error']['message']}", err=True)
        for image_id, reason in refused.items():
            click.echo(f"  {image_id}: {reason}", err=True)
    if failed or refused:
        raise SystemExit(1)


@cli.command()
@settings_options
@json_option
def config(config: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Print the effective settings as TOML, secrets masked."""
    from imgsim.settings import describe, masked_values

    settings = settings_of(config, data_dir)
    if as_json:
        values = masked_values(settings)
        print_json({key: {"value": values[key], "about": about} for key, _, about in describe(settings)})
        return
    for key, value, about in describe(settings):
        click.echo(f"# {about}\n{key} = {value}\n")


@cli.command()
@settings_options
@json_option
def plugins(config: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """List the stages in their order, and where each comes from."""
    from imgsim.container import Container
    from imgsim.pipeline.stage import stage_names

    settings = settings_of(config, data_dir)
    rows = [
        {
            "stage": origin.stage.name,
            "after": list(stage_names(origin.stage, "after")),
            "before": list(stage_names(origin.stage, "before")),
            "plugin": origin.plugin,
            "distribution": origin.distribution,
        }
        for origin in Container(settings=settings).stage_origins()
    ]
    if as_json:
        print_json({"stages": rows, "disabled": list(settings.plugins.disabled)})
        return
    for position, row in enumerate(rows, 1):
        click.echo(f"{position}. {row['stage']:<16} plugin {row['plugin']} ({row['distribution']})")
    for name in settings.plugins.disabled:
        click.echo(f"-  disabled: plugin {name}")


@cli.command()
@settings_options
def migrate(config: Path | None, data_dir: Path | None) -> None:
    """Bring the database up to date, after an upgrade of imgsim."""
    from imgsim.container import migrate_database

    ran = run(migrate_database(settings_of(config, data_dir)))
    click.echo(f"Ran the migrations {', '.join(ran)}." if ran else "The database is up to date.")


@cli.command()
@settings_options
@json_option
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True),
    help="Folder of your own photographs to measure on; int8 is judged by them, and not without.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True, max=600),
    default=3.0,
    show_default=True,
    help="Seconds of full load for each candidate.",
)
@click.option(
    "--write",
    "target",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Put the choice into this TOML file of settings; all else in it stays, comments too.",
)
def tune(
    config: Path | None,
    data_dir: Path | None,
    as_json: bool,
    images: Path | None,
    seconds: float,
    target: Path | None,
) -> None:
    """Measure the model on this machine, and choose its threads, batch and precision.

    \b
    imgsim tune                                      measure, print, change nothing
    imgsim tune --images ~/Pictures --write my.toml  judge int8, too, and keep the choice
    imgsim serve --config my.toml                    use it

    Takes half a minute with the packaged model, and a few minutes with one of open_clip. Tries one thread,
    half of the cores and all of them; with open_clip models then batches of 1 to 16 pictures and, with
    --images of at least 16 different pictures, int8, if it finds the same neighbours among them as fp32.
    The fastest is chosen, or what is simpler and within 3 % of it.

    images/s is with all threads busy; alone ms is one picture with nothing beside it; busy ms is a search
    by image while all threads are busy, which waits longer the larger the batch is.

    A running server on the same data directory is not in the way, but disturbs what is measured, as all
    else on the machine does. Ctrl-C ends it; nothing is written then.
    """
    from rich.console import Console

    from imgsim.settings_file import as_toml, overridden, with_chosen, write_chosen
    from imgsim.sources.files import find_files
    from imgsim.tuning import as_table, check_tunable
    from imgsim.tuning import tune as measure

    settings = settings_of(config, data_dir)
    check_tunable(settings)
    if target:
        with_chosen(target, {})  # what cannot be written is found before
    files = list(find_files(images)) if images else []
    with Console(stderr=True).status("measuring") as status:
        found = run(measure(settings, files, seconds, status.update))
    if as_json:
        print_json(found.as_json())
    else:
        pictures = f"{found.pictures} of your pictures" if found.pictures else "made pictures"
        click.echo(f"{found.model} on {found.cores} cores, {pictures}\n")
        for line in as_table(found):
            click.echo(line)
        if found.int8:
            click.echo(found.int8)
        click.echo(f"\n{as_toml(found.chosen)}", nl=False)
    if not target:
        click.echo("Nothing is changed: --write FILE puts these lines into a file for --config.", err=True)
        return
    write_chosen(target, found.chosen)
    click.echo(f"Written to {target}; it counts from the next start with --config {target} on.", err=True)
    for name in overridden(found.chosen):
        click.echo(f"The environment variable {name} goes before it.", err=True)


@cli.command("migrate-data")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="TOML file of the settings of the deployment to copy from.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Data directory to copy from [imgsim-data].",
)
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="TOML file of the settings of the deployment to copy to; IMGSIM_* variables count for it alone.",
)
@json_option
def migrate_data(config: Path | None, data_dir: Path | None, target: Path, as_json: bool) -> None:
    """Copy all images, with their vectors, to another deployment.

    From the data directory (or what --config says) to what the settings file --to says, as from
    imgsim serve to a cluster. Stop the server first. Ids stay. Every object is read back and compared,
    every vector too, and both sides are counted in the end. Run it again after Ctrl-C or an error: it
    goes on where it stopped, and the source stays as it is.
    """
    from dataclasses import asdict

    from imgsim.progress import progress_bar
    from imgsim.running import opened_storage
    from imgsim.settings import load_settings, mask_url
    from imgsim.transfer import TransferReport, check_apart, count_images, transfer

    overrides = {"data_dir": data_dir} if data_dir else {}
    source_settings = load_settings(config, overrides, environment=False)
    target_settings = settings_of(target, None)
    check_apart(source_settings, target_settings)

    async def main() -> TransferReport:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        async with opened_storage(source_settings) as source, opened_storage(target_settings) as there:
            if not (total := await count_images(source.images)):
                place = mask_url(source_settings.part_url("database"))
                raise SettingsError(f"There is no image in {place}: --data-dir or --config names the source.")
            with progress_bar("copying") as progress:
                bar = progress.add_task("", total=total)
                loop.add_signal_handler(signal.SIGINT, stop.set)
                return await transfer(source, there, lambda report: progress.update(bar, completed=report.seen), stop)

    report = run(main())
    if as_json:
        print_json(asdict(report) | {"complete": report.complete})
    else:
        click.echo(f"{report.copied} copied, {report.already_there} already there, {len(report.failed)} failed")
        for name in sorted(report.source.keys() | report.target.keys()):
            click.echo(f"  {name:<40} {report.source.get(name, 0):>10} here {report.target.get(name, 0):>10} there")
        for image_id, reason in report.failed:
            click.echo(f"  {image_id}: {reason}", err=True)
    if not report.complete:
        click.echo("Not complete. Run the same command again to go on.", err=True)
        raise SystemExit(1)


def main() -> None:
    cli(prog_name="imgsim")
