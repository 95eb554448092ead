"""``imgsim index`` on what is no folder: archives, tables, lists, buckets; cut off and begun again."""

import asyncio
import hashlib
import json
import shutil
import signal
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgsim.bulk import BulkImport
from imgsim.bulk_report import SHOWN
from imgsim.core.imports import Failure
from imgsim.sources import SourceChain
from imgsim.sources.source import failing
from tests.e2e.test_cli import QUICK, command, end, environment, quickly, run, start, until
from tests.processes import ImgsimServer
from tests.scripted import ScriptedServer, answer
from tests.servers import SeaweedFS


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="module")
def album(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a zip and a tar file, a table and a list, of 12 photographs; and pictures that the table names."""
    folder = tmp_path_factory.mktemp("album")
    (folder / "pictures").mkdir()
    for number, photo in enumerate(photos[:12]):
        shutil.copy(photo, folder / "pictures" / f"{number}.jpg")
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.write(folder / "pictures" / f"{number}.jpg", f"zipped/{number}.jpg")
        archive.writestr("notes.txt", "no image")
    with tarfile.open(folder / "b.tar.gz", "w:gz") as tar:
        for number in range(4, 8):
            tar.add(folder / "pictures" / f"{number}.jpg", f"packed/{number}.jpg")
    rows = [f"pictures/{number}.jpg,tag{number},{number}" for number in range(8, 10)]
    (folder / "c.csv").write_text("\n".join(["path,tags,number", *rows, "pictures/gone.jpg,,"]))
    return folder


def images(data: Path) -> list[dict[str, Any]]:
    with ImgsimServer(data, QUICK) as server, server.client() as client:
        found: list[dict[str, Any]] = client.get("/images", params={"limit": 100}).json()["images"]
        return found


def test_archives_tables_and_lists_are_indexed_together_with_a_report(data: Path, album: Path) -> None:
    with ScriptedServer(lambda request: [answer((album / "pictures" / "10.jpg").read_bytes())]) as server:
        (album / "urls.list").write_text(f"# one\n{server.url}/10.jpg\n")
        sources = [album / "a.zip", album / "b.tar.gz", album / "c.csv", "--urls", album / "urls.list"]
        report = album / "report.jsonl"
        first = quickly(
            "index",
            "--data-dir",
            data,
            "--tag",
            "all",
            "--report",
            report,
            *sources,
            status=1,
            FETCH__ALLOW_PRIVATE="true",
        )
    assert first.out == "11 indexed, 0 already there, 1 passed over (no images), 1 failed\n"
    gone = f"{album}/pictures/gone.jpg"
    first.said(f"{gone}: No such file or directory")
    failure, summary = map(json.loads, report.read_text().splitlines())
    assert failure == {"source": gone, "reason": "No such file or directory", "type": "unreadable"}
    assert summary["summary"].items() >= {"seen": 13, "indexed": 11, "failed": 1, "stopped": False}.items()

    again = quickly("index", "--data-dir", data, "--json", *sources[:2]).json
    assert (again["already_there"], again["not_images"], again["indexed"], again["failed"]) == (8, 1, 0, 0)
    found = {image["filename"]: image for image in images(data)}
    assert set(found) == {f"{number}.jpg" for number in range(11)}
    assert found["2.jpg"]["metadata"] == {"path": f"{album}/a.zip/zipped/2.jpg"}
    assert found["8.jpg"]["metadata"] == {"path": f"{album}/pictures/8.jpg", "number": 8}
    assert found["8.jpg"]["tags"] == ["all", "tag8"]
    assert found["10.jpg"]["metadata"] == {"url": f"{server.url}/10.jpg"}


def test_paths_come_from_standard_input(data: Path, album: Path) -> None:
    listed = "\n".join(f"{album}/pictures/{number}.jpg" for number in range(3))
    done = subprocess.run(
        command("index", "--data-dir", data, "-"), env=environment(QUICK), input=listed.encode(), capture_output=True
    )
    assert (done.returncode, done.stdout) == (0, b"3 indexed, 0 already there, 0 passed over (no images), 0 failed\n")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImgsimServer]:
    with ImgsimServer(tmp_path_factory.mktemp("imported") / "data", QUICK) as running:
        yield running


def test_a_server_is_not_sent_again_what_it_has(server: ImgsimServer, album: Path) -> None:
    arguments = ["index", "--server", server.url, "--json", album / "a.zip", album / "pictures"]

    assert run(*arguments).json["indexed"] == 12
    # The four of the zip file, and the pictures beside them, are the same bytes.
    counts = [run(*arguments).json for _ in range(2)]
    assert [(each["already_there"], each["indexed"]) for each in counts] == [(16, 0)] * 2
    with server.client() as client:
        (known,) = client.get(
            "/images", params={"sha256": hashlib.sha256((album / "pictures" / "1.jpg").read_bytes()).hexdigest()}
        ).json()["images"]
        assert known["filename"] == "1.jpg"
        assert client.get("/images", params={"sha256": "0" * 64}).json()["images"] == []
        assert client.get("/images", params={"sha256": "x"}).status_code == 400
        sent = client.get("/metrics").text
    uploads = [
        line for line in sent.splitlines() if line.startswith("imgsim_http_requests_total{") and "upload" in line
    ]
    assert sum(float(line.rpartition(" ")[2]) for line in uploads) < 3 * 16


def test_a_run_that_was_killed_goes_on_where_it_was(data: Path, photos: list[Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number, photo in enumerate(photos):
            archive.write(photo, f"{number}.jpg")
    total = len({photo.read_bytes() for photo in photos})
    stored = data / "objects" / "originals"
    with start("index", "--data-dir", data, tmp_path / "all.zip", IMGSIM_EMBEDDER__URL="colour:") as process:
        until(lambda: len(list(stored.glob("*/*"))) > 20, process)
        process.send_signal(signal.SIGKILL)
        assert end(process).status == -signal.SIGKILL
    before = quickly("status", "--data-dir", data, "--json").json["images"]
    assert 0 < sum(before.values()) < total

    again = quickly("index", "--data-dir", data, "--json", tmp_path / "all.zip", JOBS__MAX_ATTEMPTS="2").json

    assert again["already_there"] >= sum(before.values())
    assert (again["seen"], again["failed"]) == (len(photos), 0)
    after = quickly("status", "--data-dir", data, "--json").json
    assert after["images"]["done"] == after["vectors"]["colour-histogram@1"] == total


def test_a_bucket_is_indexed_with_whatever_keys_it_has(
    data: Path, album: Path, seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweedfs.environment.items():
        monkeypatch.setenv(name, value)
    s3 = seaweedfs.client()
    s3.create_bucket(Bucket="index-sources")
    for number, key in enumerate(("in/a.jpg", "in/sub/ü ?#%41.jpg", "in/notes", "inside.jpg", "in/folder/")):
        body = b"" if key.endswith(("notes", "/")) else (album / "pictures" / f"{number}.jpg").read_bytes()
        s3.put_object(Bucket="index-sources", Key=key, Body=body)
    where = f"?endpoint={seaweedfs.endpoint}"

    (album / "s3.csv").write_text(f"path,number\ns3://index-sources/inside.jpg{where},7\n")
    sources = [f"s3://index-sources/in{where}", album / "s3.csv", f"s3://no-such-bucket/{where}"]
    found = quickly("index", "--data-dir", data, "--json", *sources, status=1).json

    assert (found["indexed"], found["not_images"], found["failed"]) == (3, 1, 1)
    (missing,) = found["failures"]
    assert missing["source"] == sources[2]
    assert missing["reason"] == "The object store refuses the bucket no-such-bucket: the bucket is not there."


def test_wrong_sources_are_told_before_anything_begins(data: Path, tmp_path: Path) -> None:
    quickly("index", "--data-dir", data, status=2).said("Missing argument 'SOURCES...'")
    quickly("index", "--data-dir", data, "/no/such.zip", status=2).said("'/no/such.zip' does not exist")
    (tmp_path / "x.zip").write_bytes(b"junk")
    quickly("index", "--data-dir", data, "--report", tmp_path / "no" / "r", tmp_path / "x.zip", status=2).said("report")
    quickly("index", "--data-dir", data, tmp_path / "x.zip", status=1).said("x.zip: This is no zip file.")


async def test_a_report_of_many_failures_holds_the_first_and_the_file_has_all() -> None:
    class Broken:
        label = "broken"

        async def items(self) -> Any:
            for number in range(5000):
                yield failing(str(number), OSError("gone"))

        def count(self) -> int:
            return 5000

    told: list[Failure] = []
    bulk = BulkImport(None, on_failure=told.append)  # type: ignore[arg-type]
    report = await asyncio.wait_for(bulk.run(SourceChain([Broken()])), 30)

    assert (report.failed, len(report.failures), report.seen) == (5000, SHOWN, 5000)
    assert {failure.source for failure in told} == {str(number) for number in range(5000)}
