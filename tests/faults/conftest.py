"""Fixtures of servers that are meant to break."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.orders import Orders
from tests.processes import ImgsimServer


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    return Orders(tmp_path)


@pytest.fixture
def start(tmp_path: Path, orders: Orders) -> Iterator[Callable[..., ImgsimServer]]:
    """``start(jobs__lease_seconds=1)``: a server that runs, with the saboteur in it and these settings."""
    with ExitStack() as running:

        def start(**settings: object) -> ImgsimServer:
            environment = {f"IMGSIM_{key.upper()}": str(value) for key, value in settings.items()}
            return running.enter_context(ImgsimServer(tmp_path / "data", {**orders.environment, **environment}))

        yield start
