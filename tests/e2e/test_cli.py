"""The real command line, in processes of its own, on real photographs."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from imgsim.bulk import BulkImport
from imgsim.cli import cli
from imgsim.client import AsyncClient
from imgsim.running import opened_reach
from imgsim.settings import load_settings
from imgsim.sources import source_at
from imgsim.targets import ServerTarget
from tests.processes import ImgsimServer, wait_until_at_rest

QUICK = {"IMGSIM_EMBEDDER__URL": "colour:", "IMGSIM_JOBS__MAX_ATTEMPTS": "1"}
"""Settings of those tests that ask nothing of the model."""

MOODY = """
import asyncio
import imgsim
from pathlib import Path

HERE = Path(__file__).parent

class Moody:
    name, before = "moody", "embed"

    async def run(self, ctx):
        (HERE / "reached").touch()
        while (HERE / "hold").exists():
            await asyncio.sleep(0.01)
        if (HERE / "fail").exists():
            raise ValueError("in a bad mood")

@imgsim.hookimpl
def imgsim_stages(settings):
    return [Moody()]
"""


def environment(values: dict[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IMGSIM_")}
    return kept | {"PYTHONUNBUFFERED": "1"} | (values or {})


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "imgsim", *map(str, arguments)]


class Ran:
    """What a command that ended said. Never a traceback."""

    def __init__(self, status: int, out: bytes, err: bytes) -> None:
        self.status, self.out, self.err = status, out.decode(), err.decode()
        assert "Traceback" not in self.err, self.err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def said(self, *words: str) -> "Ran":
        for word in words:
            assert word in self.err, self.err
        return self


def run(*arguments: str | Path, status: int = 0, **settings: str) -> Ran:
    """Run imgsim to its end, which must be with `status`. `settings` are ``IMGSIM_*`` without that."""
    variables = {name if name == "PYTHONPATH" else f"IMGSIM_{name}": value for name, value in settings.items()}
    ended = subprocess.run(command(*arguments), env=environment(variables), capture_output=True, timeout=60)
    assert ended.returncode == status, ended.stdout.decode() + ended.stderr.decode()
    return Ran(ended.returncode, ended.stdout, ended.stderr)


def quickly(*arguments: str | Path, status: int = 0, **settings: str) -> Ran:
    quick = {name.removeprefix("IMGSIM_"): value for name, value in QUICK.items()}
    return run(*arguments, status=status, **{**quick, **settings})


def start(*arguments: str | Path, **variables: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command(*arguments), env=environment(variables), stdout=pipe, stderr=pipe)


def end(process: subprocess.Popen[bytes]) -> Ran:
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()  # or the test would wait for it for ever
        raise
    return Ran(process.returncode, out, err)


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes] | None = None, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "the process ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def moody(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH, with a plugin that waits while its file ``hold`` is there, and fails with ``fail``."""
    site = tmp_path / "site"
    metadata = site / "moody-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "moody.py").write_text(MOODY)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: moody\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[imgsim]\nmoody = moody\n")
    return site


@pytest.fixture(scope="module")
def classes(photos: list[Path]) -> Path:
    return photos[0].parents[1]


@pytest.fixture(scope="module")
def indexed(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the bananas and, in a collection of their own, the shoes."""
    data = tmp_path_factory.mktemp("indexed") / "data"
    run("index", "--data-dir", data, classes / "banana")
    run("index", "--data-dir", data, "--collection", "shoes", "--tag", "worn", "--tag", "pair", classes / "shoes")
    return data


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImgsimServer]:
    """A server that only lets in whoever has a key."""
    data = tmp_path_factory.mktemp("keyed") / "data"
    with ImgsimServer(data, QUICK | {"IMGSIM_AUTH__KEYS": "first,second"}) as server:
        yield server


@pytest.fixture
def dead() -> str:
    """The URL of a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


# serve


def test_serve_says_where_it_is_ready_and_what_to_do_next(server: ImgsimServer) -> None:
    said = server.log.read_text()

    assert f"is ready at {server.url} (model efficientnet-lite0@1, data in {server.data_dir})" in said
    assert f"imgsim index --server {server.url}" in said
    assert f"curl -F file=@cat.jpg {server.url}/images/upload" in said


def test_a_second_serve_on_the_data_directory_says_who_has_it_and_harms_nothing(server: ImgsimServer) -> None:
    for arguments in (["serve", "--port", "0"], ["status"], ["migrate"]):
        refused = run(*arguments, "--data-dir", server.data_dir, status=1)
        refused.said("imgsim: The data directory", f"(pid {server.process.pid})", f"use --server {server.url}.")
        assert refused.out == ""
    with server.client() as client:
        assert client.get("/ready").status_code == 200


def test_a_port_that_is_taken_is_an_error(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        quickly("serve", "--data-dir", data, "--port", port, status=2).said(
            f"imgsim: Cannot listen on 127.0.0.1:{port}: Address already in use. Try another --port."
        )


def test_a_host_that_is_not_ours_is_an_error(data: Path) -> None:
    refused = quickly("serve", "--data-dir", data, "--port", "0", "--host", "192.0.2.1", AUTH__KEYS="k", status=2)
    refused.said("imgsim: Cannot listen on 192.0.2.1:0: ", "Try another --host.")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_an_open_server_listens_on_loopback_only(data: Path, host: str) -> None:
    quickly("serve", "--data-dir", data, "--host", host, status=2).said("IMGSIM_AUTH__KEYS", "auth.allow_open = true")

    assert not data.exists()


def test_with_keys_a_server_may_listen_everywhere(tmp_path: Path) -> None:
    with ImgsimServer(tmp_path / "data", QUICK | {"IMGSIM_AUTH__KEYS": "k"}, "--host", "0.0.0.0") as server:
        port = server.url.rpartition(":")[2]
        assert httpx.get(f"http://127.0.0.1:{port}/images").status_code == 401
        assert httpx.get(f"http://127.0.0.1:{port}/images", headers={"X-API-Key": "k"}).status_code == 200
        assert '-H "Authorization: Bearer KEY"' in server.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_right_after_the_banner_stops_the_server_cleanly(tmp_path: Path, number: int) -> None:
    with ImgsimServer(tmp_path / "data", QUICK) as server:
        server.process.send_signal(number)

        assert server.process.wait(30) == 0
        assert "Traceback" not in server.log.read_text()


def test_sigterm_hands_back_what_it_cannot_finish(tmp_path: Path, moody: Path, photos: list[Path]) -> None:
    settings = QUICK | {"PYTHONPATH": str(moody), "IMGSIM_JOBS__DRAIN_SECONDS": "0"}
    (moody / "hold").touch()
    with ImgsimServer(tmp_path / "data", settings) as server:
        with server.client() as client:
            image = client.post("/images/upload", files={"file": photos[0].read_bytes()}).raise_for_status().json()
            until((moody / "reached").exists)
        assert server.terminate() == 0
        assert "handed back 1 images" in server.log.read_text()
        assert quickly("status", "--json", "--data-dir", server.data_dir).json["images"]["pending"] == 1
        (moody / "hold").unlink()
        server.start()
        with server.client() as client:
            done = wait_until_at_rest(client, image["id"])
    assert (done["state"], done["attempts"]) == ("done", 2)


@pytest.mark.parametrize("arguments", [["serve", "--port", "0"], ["search", "--image", "cat.jpg"], ["status"]])
def test_ctrl_c_while_it_starts_leaves_no_traceback(tmp_path: Path, photos: list[Path], arguments: list[str]) -> None:
    shutil.copy(photos[0], tmp_path / "cat.jpg")
    arguments = [str(tmp_path / each) if each == "cat.jpg" else each for each in arguments]
    with start(*arguments, "--data-dir", tmp_path / "data") as process:
        until((tmp_path / "data" / "imgsim.lock").exists, process)
        process.send_signal(signal.SIGINT)
        assert end(process).status in (130, 0)


# index


def test_index_takes_folders_with_all_below_and_passes_over_what_is_hidden_or_no_image(
    data: Path, tmp_path: Path, photos: list[Path]
) -> None:
    folder = tmp_path / "pictures"
    for name in ("1.jpg", "below/deeper/2.JPEG", "without-suffix", ".hidden.jpg", ".git/3.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos[len(name)], folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / "empty.jpg").touch()
    os.mkfifo(folder / "pipe.jpg")

    first = quickly("index", "--data-dir", data, "--json", folder)
    again = quickly("index", "--data-dir", data, folder)

    report = {"failed": 0, "updated": 0, "pending": 0, "failures": [], "stopped": False, "unavailable": None}
    assert first.json == {"seen": 6, "indexed": 3, "already_there": 0, "rejected": 0, "not_images": 3} | report
    assert again.out == "0 indexed, 3 already there, 3 passed over (no images), 0 failed\n"


def test_index_goes_on_after_what_fails_and_lists_it_with_the_reason(
    data: Path, tmp_path: Path, photos: list[Path]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    shutil.copy(photos[0], folder / "good.jpg")
    (folder / "cut.jpg").write_bytes(photos[1].read_bytes()[:2000])
    (notes := tmp_path / "notes.md").write_text("no image")

    failed = quickly("index", "--data-dir", data, folder, notes, status=1)

    assert failed.out == "1 indexed, 0 already there, 0 passed over (no images), 2 failed\n"
    failed.said(f"{folder}/cut.jpg: The JPEG image is cut off", f"{notes}: The file is not an image of a format")
    again = quickly("index", "--data-dir", data, "--json", folder, notes, status=1).json
    assert again["failed"] == 2
    found = {each["source"]: each["type"] for each in again["failures"]}
    assert found == {str(notes): "unsupported-image", f"{folder}/cut.jpg": "broken-image"}


def test_a_file_name_that_is_not_utf_8_can_be_indexed_and_listed(
    data: Path, tmp_path: Path, photos: list[Path]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    shutil.copy(photos[0], os.path.join(os.fsencode(folder), b"caf\xe9.jpg"))
    Path(os.fsdecode(os.path.join(os.fsencode(folder), b"cut\xff.jpg"))).write_bytes(photos[1].read_bytes()[:2000])

    assert quickly("index", "--data-dir", data, folder, status=1).said("cut\ufffd.jpg: ").out.startswith("1 indexed")
    assert "caf\ufffd.jpg" in quickly("search", "--data-dir", data, "--image", photos[0]).out


def test_ctrl_c_finishes_what_has_begun_and_the_next_run_goes_on_without_doubling(
    data: Path, moody: Path, photos: list[Path], classes: Path
) -> None:
    (moody / "hold").touch()
    with start("index", "--data-dir", data, "--json", classes, PYTHONPATH=str(moody), **QUICK) as process:
        until((moody / "reached").exists, process)
        process.send_signal(signal.SIGINT)
        (moody / "hold").unlink()
        stopped = end(process).said("Stopped. Run the same command again to go on.")
    first = quickly("index", "--data-dir", data, "--json", classes, PYTHONPATH=str(moody)).json
    status = quickly("status", "--data-dir", data, "--json", PYTHONPATH=str(moody)).json

    total = len(list(classes.rglob("*.jpg")))
    assert stopped.status == 130
    assert stopped.json["stopped"]
    assert 0 < stopped.json["indexed"] < total
    assert (first["indexed"], first["already_there"]) == (total - stopped.json["indexed"], stopped.json["indexed"])
    assert status["images"]["done"] == status["vectors"]["colour-histogram@1"] == total


def test_a_second_ctrl_c_stops_at_once(data: Path, moody: Path, classes: Path) -> None:
    (moody / "hold").touch()
    settings = QUICK | {"IMGSIM_JOBS__DRAIN_SECONDS": "0", "PYTHONPATH": str(moody)}
    with start("index", "--data-dir", data, classes / "milk", **settings) as process:
        until((moody / "reached").exists, process)
        for _ in range(2):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(1)
                except subprocess.TimeoutExpired:
                    continue
        assert end(process).status == 130
    (moody / "hold").unlink()
    assert quickly("index", "--data-dir", data, "--json", classes / "milk", PYTHONPATH=str(moody)).json["failed"] == 0


def test_index_and_search_on_a_server_that_wants_a_key(keyed: ImgsimServer, classes: Path) -> None:
    photo = min((classes / "dress").iterdir())

    for key in ({}, {"AUTH__KEYS": "wrong"}):
        refused = run("index", "--server", keyed.url, classes / "dress", status=1, **key)
        assert refused.err.count("API key") == 1
        refused.said("imgsim: Send an API key", "IMGSIM_AUTH__KEYS")
    assert run("index", "--server", keyed.url, classes / "dress", AUTH__KEYS="second").out.startswith("12 indexed")
    found = run("search", "--server", keyed.url, "--image", photo, "-k", "1", AUTH__KEYS="first").out
    assert found.startswith("1.0000  ")
    assert found.endswith(f"  {photo}\n")
    status = run("status", "--server", keyed.url, "--json", AUTH__KEYS="first").json
    assert status["images"]["done"] == status["vectors"]["colour-histogram@1"] == 12
    assert status["checks"]["database"] == "ok"


@pytest.mark.parametrize(
    "arguments", [["index", "PHOTOS"], ["search", "--image", "PHOTO"], ["status"], ["retry"]], ids=lambda a: a[0]
)
def test_a_dead_server_is_one_clear_error(dead: str, classes: Path, photos: list[Path], arguments: list[str]) -> None:
    places = {"PHOTOS": str(classes), "PHOTO": str(photos[0])}
    failed = run(*(places.get(each, each) for each in arguments), "--server", dead, status=1)

    assert failed.err == f"imgsim: The server at {dead} gave no answer: All connection attempts failed.\n"
    assert failed.out == ""


async def test_a_server_that_goes_for_good_ends_the_run_with_one_error(dead: str, classes: Path) -> None:
    async with AsyncClient(dead, retries=0) as client, opened_reach(load_settings()) as reach:
        report = await BulkImport(ServerTarget(client), pauses=(0.0, 0.0)).run(source_at(str(classes), reach))

    assert report.unavailable is not None
    assert report.unavailable.startswith(f"The server at {dead} gave no answer")
    assert (report.failed, report.seen) == (0, 0)


def test_a_run_outlives_the_restart_of_its_server(tmp_path: Path, moody: Path, classes: Path, dead: str) -> None:
    (moody / "hold").touch()
    port = dead.rpartition(":")[2]
    settings = QUICK | {"IMGSIM_JOBS__MAX_ATTEMPTS": "5", "PYTHONPATH": str(moody)}
    with ImgsimServer(tmp_path / "data", settings, "--port", port) as server:
        with start("index", "--server", server.url, "--json", classes / "roses") as process:
            until((moody / "reached").exists, process)
            server.kill()
            (moody / "hold").unlink()
            server.start()
            ran = end(process)
        assert (ran.status, ran.json["failed"], ran.json["unavailable"]) == (0, 0, None)
        assert ran.json["indexed"] + ran.json["already_there"] == 12  # what was stored before a long outage is there


def test_a_server_that_is_no_imgsim_is_told_so(tmp_path: Path) -> None:
    serve = [sys.executable, "-um", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as other:
        assert other.stdout is not None
        port = re.search(r"port (\d+)", other.stdout.readline())
        assert port is not None
        run("status", "--server", f"127.0.0.1:{port[1]}", status=2).said(
            f"What answers at http://127.0.0.1:{port[1]} is no imgsim server."
        )
        other.kill()


# search


def test_search_lists_score_id_and_path_best_first(indexed: Path, classes: Path) -> None:
    photo = min((classes / "banana").iterdir())
    lines = run("search", "--data-dir", indexed, "--image", photo, "-k", "4").out.splitlines()

    rows = [re.fullmatch(r"(\d\.\d{4})  ([ \d]{3}\.\d) %  [0-9a-f-]{36}  (/.+\.jpg)", line) for line in lines]
    assert [row is not None for row in rows] == [True] * 4
    scores, paths = [row[1] for row in rows if row], [Path(row[3]) for row in rows if row]
    assert (scores[0], paths[0]) == ("1.0000", photo)
    assert scores == sorted(scores, reverse=True)
    assert [float(row[2]) > 80 for row in rows if row] == [True] * 4
    assert [path.parent.name for path in paths] == ["banana"] * 4


def test_search_for_programs_gives_the_answer_of_the_http_api(indexed: Path, classes: Path) -> None:
    photo = min((classes / "shoes").iterdir())
    answer = run("search", "--data-dir", indexed, "--image", photo, "-k", "1", "--json").json

    assert answer["model"] == "efficientnet-lite0@1"
    (hit,) = answer["results"]
    assert hit["score"] == pytest.approx(1, abs=1e-4)
    assert 99 < hit["percentile"] <= 100
    assert hit["image"]["tags"] == ["worn", "pair"]
    assert hit["image"]["state"] == "done"
    assert hit["image"]["features"]["fingerprint"].keys() == {"pdq", "quality", "aspect"}


def test_search_stays_in_the_collection_it_is_told(indexed: Path, classes: Path) -> None:
    photo = min((classes / "banana").iterdir())
    arguments = ["search", "--data-dir", indexed, "--image", photo, "--collection"]

    assert run(*arguments, "shoes").out.count("/shoes/") == 10
    nothing = run(*arguments, "hats")
    assert nothing.out == ""
    nothing.said("Nothing found: no image in the collection 'hats' is indexed.")


def test_search_takes_the_filters_of_the_http_api(indexed: Path, classes: Path) -> None:
    photo = min((classes / "banana").iterdir())
    search = ["search", "--data-dir", indexed, "--image", photo, "-k", "100"]

    everything = run(*search).out.splitlines()
    tagged = run(*search, "--tag", "worn", "--any-tag", "pair", "--any-tag", "x", "--not-tag", "y", "--exact").out
    assert {line for line in everything if "/shoes/" in line} == set(tagged.splitlines())
    assert tagged
    by_path = run(*search, "--metadata", f"path={photo}", "--created-from", "2026-01-01").out.splitlines()
    assert by_path == everything[:1]
    run(*search, "--min-score", "0.9", "--not-tag", "none", "--created-to", "2026-01-01").said("passes the filters")
    run(*search, "--created-from", "yesterday", status=2).said("created_from is a date")


def test_search_where_nothing_is_indexed_says_so(data: Path, photos: list[Path]) -> None:
    nothing = quickly("search", "--data-dir", data, "--image", photos[0])

    assert nothing.out == ""
    nothing.said(f"Nothing found: no image in {data} is indexed. imgsim index PATH adds some.")
    answer = quickly("search", "--data-dir", data, "--image", photos[0], "--json")
    assert (answer.json["results"], answer.err) == ([], "")


def test_search_by_text_with_a_model_without_text_says_so(indexed: Path) -> None:
    failed = run("search", "--data-dir", indexed, "--text", "a banana", status=1)
    failed.said("imgsim: ", "efficientnet-lite0", "text")


def test_search_by_what_is_no_image_says_so(indexed: Path, tmp_path: Path) -> None:
    (notes := tmp_path / "notes.md").write_text("no image")

    run("search", "--data-dir", indexed, "--image", notes, status=1).said("imgsim: The file is not an image")


def test_a_reader_that_goes_away_leaves_no_traceback(indexed: Path, classes: Path) -> None:
    photo = min((classes / "banana").iterdir())
    with start("search", "--data-dir", indexed, "--image", photo) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read().decode()
        process.wait(60)

    assert said == ""


# status and retry


def test_status_of_a_data_directory_counts_images_and_vectors(indexed: Path) -> None:
    found = run("status", "--data-dir", indexed)

    assert re.search(r"^images +done +24$", found.out, re.MULTILINE)
    assert re.search(r"^vectors +efficientnet-lite0@1 +24$", found.out, re.MULTILINE)
    assert re.search(r"^checks +database +ok$", found.out, re.MULTILINE)
    assert found.err == ""


def test_status_of_a_server_has_the_same_figures(server: ImgsimServer) -> None:
    found = run("status", "--server", server.url)

    assert re.search(r"^images +done +\d+$", found.out, re.MULTILINE)
    assert re.search(r"^checks +vectors +ok$", found.out, re.MULTILINE)


def test_retry_brings_an_image_out_of_error_when_its_reason_is_gone(
    data: Path, moody: Path, photos: list[Path]
) -> None:
    (moody / "fail").touch()
    here = {"PYTHONPATH": str(moody), "LOG__LEVEL": "error"}

    def imgsim(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        # The log has the plugin's traceback, as it should.
        variables = QUICK | {"PYTHONPATH": here["PYTHONPATH"]}
        ended = subprocess.run(
            command(*arguments, "--data-dir", data), env=environment(variables), capture_output=True, text=True
        )
        assert ended.returncode == status, ended.stdout + ended.stderr
        return ended

    failed = imgsim("index", photos[0], photos[1], status=1)
    assert "2 failed" in failed.stdout
    assert f"  {photos[0]}: moody: ValueError: in a bad mood\n" in failed.stderr
    assert imgsim("retry", status=1).stdout == "0 done, 2 failed again\n"
    (moody / "fail").unlink()
    errors = json.loads(imgsim("status", "--json").stdout)["images"]["error"]
    assert errors == 2
    assert imgsim("retry").stdout == "2 done, 0 failed again\n"
    assert imgsim("retry").stdout == "No image is in error.\n"


def test_retry_of_images_that_are_not_in_error_names_each_with_the_reason(data: Path) -> None:
    unknown = "018f0000-0000-7000-8000-000000000000"
    refused = quickly("retry", "--data-dir", data, unknown, "kitten", status=1)

    refused.said(f"{unknown}: No image has the id", "kitten: 'kitten' is no image id.")


# config, plugins, migrate


def test_config_prints_toml_with_secrets_masked_and_their_sentences(tmp_path: Path) -> None:
    (tmp_path / "imgsim.toml").write_text("[jobs]\nlease_seconds = 12\n[auth]\nkeys = ['hunter2']\n")
    shown = run("config", "--config", tmp_path / "imgsim.toml", JOBS__MAX_ATTEMPTS="7")

    assert "jobs.lease_seconds = 12.0\n" in shown.out
    assert "# Failed attempts after which an image rests in error.\njobs.max_attempts = 7\n" in shown.out
    assert 'auth.keys = ["**********"]' in shown.out
    assert "hunter2" not in shown.out + shown.err


def test_config_for_programs_has_values_as_json_has_them() -> None:
    shown = run("config", "--json", PORT="1234").json

    assert shown["port"] == {"value": 1234, "about": "Port to listen on; 0: any free one."}
    assert shown["jobs.url"]["value"] == "inprocess://"


@pytest.mark.parametrize("name", ["serve", "index", "search", "status", "retry", "config", "plugins", "migrate"])
def test_settings_that_cannot_be_used_are_one_sentence_from_every_command(name: str, photos: list[Path]) -> None:
    more = {"index": [str(photos[0])], "search": ["--image", str(photos[0])]}.get(name, [])
    failed = run(name, *more, JOBS__MAX_ATTEMPT="7", status=2)

    assert failed.err.startswith("imgsim: There is no setting jobs.max_attempt. Did you mean jobs.max_attempts? Valid:")
    assert (failed.err.count("\n"), failed.out) == (1, "")


def test_plugins_lists_the_stages_in_order_with_their_origin(moody: Path) -> None:
    lines = run("plugins", PYTHONPATH=str(moody)).out.splitlines()

    assert [line.split() for line in lines] == [
        ["1.", "moody", "plugin", "moody", "(moody", "1.0)"],
        ["2.", "embed", "plugin", "embed", "(imgsim", "0.1.0)"],
        ["3.", "fingerprint", "plugin", "copies", "(imgsim", "0.1.0)"],
        ["4.", "thumbnail", "plugin", "thumbnail", "(imgsim", "0.1.0)"],
        ["5.", "index", "plugin", "index", "(imgsim", "0.1.0)"],
        ["6.", "copies", "plugin", "copies", "(imgsim", "0.1.0)"],
    ]


def test_a_plugin_that_cannot_be_used_is_one_sentence(moody: Path) -> None:
    (moody / "moody.py").write_text("import nothing_of_this_name")

    failed = run("plugins", PYTHONPATH=str(moody), status=1)
    failed.said("imgsim: The plugin 'moody' (moody 1.0) cannot be imported: ModuleNotFoundError")
    lines = run("plugins", PYTHONPATH=str(moody), PLUGINS__DISABLED="moody").out.splitlines()
    assert lines[-1] == "-  disabled: plugin moody"


def test_migrate_makes_a_new_database_and_then_finds_it_up_to_date(data: Path) -> None:
    assert re.fullmatch(r"Ran the migrations 0001, .*\.\n", run("migrate", "--data-dir", data).out)
    assert run("migrate", "--data-dir", data).out == "The database is up to date.\n"
    assert quickly("status", "--data-dir", data, "--json").json["images"]["done"] == 0


def test_an_old_database_is_not_touched_until_migrate_is_run(data: Path) -> None:
    data.mkdir()
    with sqlite3.connect(data / "imgsim.sqlite") as database:
        database.execute("CREATE TABLE migration (id INTEGER PRIMARY KEY, name, app_name, ran_on)")
        database.execute("INSERT INTO migration VALUES (1, '0000_before_the_first', 'imgsim', '2026-01-01')")
    database.close()

    for arguments in (["serve", "--port", "0"], ["status"]):
        quickly(*arguments, "--data-dir", data, status=1).said("imgsim: The database waits", "run imgsim migrate.")
    assert run("migrate", "--data-dir", data).out.startswith("Ran the migrations ")
    assert quickly("status", "--data-dir", data, "--json").json["images"]["done"] == 0


# help and wrong usage


@pytest.mark.parametrize("name", ["", *cli.commands])
def test_the_help_explains_every_option(name: str) -> None:
    text = run(*filter(None, [name]), "--help").out

    options = re.split(r"^Options:$", text, flags=re.MULTILINE)[1].partition("\nCommands:")[0]
    entries = re.findall(r"^  (-.+?)(?:  |$)(.*(?:\n {6,}.+)*)", options, re.MULTILINE)
    assert len(entries) >= 2
    for option, about in entries:
        assert len(" ".join(about.split())) > 10, f"{option} is not explained"
    assert text.startswith("Usage: imgsim ")
    for metavar in re.findall(r"(?:SOURCES|IDS)", text.splitlines()[0]):
        assert f"{metavar} are" in text, f"{metavar} is not explained"


@pytest.mark.parametrize(
    "arguments",
    [
        ["sing"],
        ["index"],
        ["index", "/no/such/folder"],
        ["index", "--collection", "two words", "."],
        ["index", "--tag", "", "."],
        ["search"],
        ["search", "--image", "/no/such/file"],
        ["search", "--text", "a", "-k", "0"],
        ["search", "--text", "a", "--image", __file__],
        ["serve", "--port", "http"],
        ["serve", "--port", "70000"],
        ["config", "--config", "/no/such/file.toml"],
        ["status", "--server", "http://localhost:port"],
        ["status", "--sever", "http://localhost"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_a_sentence_on_stderr(arguments: list[str]) -> None:
    wrong = quickly(*arguments, status=2)

    assert wrong.out == ""
    assert re.search(r"^(Error|imgsim): .+\.", wrong.err, re.MULTILINE)


@pytest.mark.parametrize("name", ["index", "watch"])
def test_what_to_do_with_copies_needs_somebody_who_looks_for_them(name: str, tmp_path: Path) -> None:
    refused = run(name, "--on-copy", "reject", tmp_path, PLUGINS__DISABLED="copies", status=2)
    refused.said("imgsim: on_copy=reject needs the plugin copies, which is off here (plugins.disabled).")


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"imgsim, version \d+\.\d+\.\d+\n", run("--version").out)
