"""Fixtures of the tests that talk to a server."""

from collections.abc import Iterator

import httpx
import pytest

from tests.processes import ImgsimServer


@pytest.fixture
def client(server: ImgsimServer) -> Iterator[httpx.Client]:
    """Of the server that all tests share."""
    with server.client() as client:
        yield client
