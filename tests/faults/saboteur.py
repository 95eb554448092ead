"""A plugin for tests that does to an image what an order says: a file in ``IMGSIM_TEST_ORDERS``.

The file ``STAGE=FILENAME`` holds one word of ``Saboteur.run``. Each time it is obeyed, a byte is added to
``STAGE=FILENAME.obeyed``. Installed for a server by ``tests.faults.orders.Orders``.
"""

import asyncio
import os
import resource
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgsim import hookimpl

_MOST_MEMORY = 1 << 30


class Saboteur:
    def __init__(self, name: str, after: Sequence[str], before: Sequence[str]) -> None:
        self.name = name
        self.after = after
        self.before = before

    async def run(self, ctx: Any) -> Any:
        order = Path(os.environ["IMGSIM_TEST_ORDERS"]) / f"{self.name}={ctx.image.filename}"
        if not order.exists():
            return None
        with order.with_name(f"{order.name}.obeyed").open("ab") as obeyed:
            obeyed.write(b".")
        while (word := _read(order)) == "hold":  # noqa: ASYNC110 (a file tells nobody that it has changed)
            await asyncio.sleep(0.01)
        match word:
            case "exit":
                os._exit(70)
            case "eat":
                _eat(limit=_MOST_MEMORY)
            case "raise":
                raise ValueError("sabotaged")
            case "hang":
                await asyncio.Event().wait()
            case "rubbish":
                return {"what": object()}
            case "block":  # against the rules: on the event loop
                time.sleep(2)  # noqa: ASYNC251
            case "long":
                await asyncio.sleep(4)
        return None


def _eat(limit: int) -> None:
    """More and more memory, until the process is killed, as the kernel does in a container of `limit` bytes."""
    hoard = []
    while resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < limit:
        hoard.append(b"x" * (1 << 24))
    os.kill(os.getpid(), signal.SIGKILL)


def _read(order: Path) -> str:
    """Empty where it was withdrawn."""
    try:
        return order.read_text()
    except FileNotFoundError:
        return ""


@hookimpl
def imgsim_stages(settings: Any) -> Sequence[Any]:
    return [
        Saboteur("before-embed", after=(), before=("embed",)),
        Saboteur("before-index", after=("embed",), before=("index",)),
        Saboteur("after-index", after=("index",), before=()),
    ]
