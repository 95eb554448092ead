"""Fixtures that every kind of test may use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ImgsimServer
from tests.servers import PostgreSQL, SeaweedFS, Valkey

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Real photographs, see tests/data/README.md."""
    return sorted((DATA / "classes").rglob("*.jpg")) + sorted((DATA / "neardup").glob("*.jpg"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImgsimServer]:
    """One server with default settings for all tests that do not change how it runs.

    Tests share it: use a collection of your own.
    """
    with ImgsimServer(tmp_path_factory.mktemp("server") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """One Redis for all tests that do not stop it: use key names, or a database number, of your own."""
    with Valkey() as running:
        yield running


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """One PostgreSQL for all tests that do not stop it: take a ``new_database``."""
    with PostgreSQL() as running:
        yield running


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[SeaweedFS]:
    """One S3 server for all tests that do not stop it: take a ``new_bucket``."""
    with SeaweedFS() as running:
        yield running
