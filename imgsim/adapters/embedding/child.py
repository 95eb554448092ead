"""Work that needs torch or much memory, in a process that ends with it: the serving one stays small.

The child writes one JSON object to stdout at its end, and what it has to say to stderr, one line each.
"""

import asyncio
import json
import logging
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imgsim.core.errors import ModelError

log = logging.getLogger(__name__)


async def run_child(module: str, arguments: Sequence[str], what: str) -> dict[str, Any]:
    """What ``answer`` in `module` wrote. Its lines go to this process's log; cancelling ends it.

    ``ModelError`` as it was raised there, or with its last line when it died (of memory, for example).
    """
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments, stdout=PIPE, stderr=PIPE)
    assert child.stdout
    assert child.stderr
    try:
        output, last = await asyncio.gather(child.stdout.read(), _follow(child.stderr))
        status = await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    try:
        result = json.loads(output)
    except ValueError:
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        raise ModelError(f"The process for {what} {how}: {last or 'it said nothing'}") from None
    if error := result.get("error"):
        raise ModelError(error)
    return dict(result)


async def _follow(stream: asyncio.StreamReader) -> str:
    """Log all lines of `stream` at the level they begin with; the last one."""
    rest = last = ""
    while chunk := await stream.read(4096):  # in pieces: progress bars are lines without end
        *lines, rest = (rest + chunk.decode(errors="replace")).replace("\r", "\n").split("\n")
        for line in lines:
            last = line.strip() or last
            name, _, text = line.partition(" ")
            level = logging.getLevelNamesMapping().get(name)
            log.log(level or logging.DEBUG, "%s", text if level else line)
    return rest.strip() or last


def answer(work: Callable[[], Mapping[str, Any]]) -> None:
    """In the child: do `work`, and answer with its result or its ``ModelError``."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("imgsim").setLevel(logging.INFO)
    logging.getLogger("__main__").setLevel(logging.INFO)
    # Libraries print; the one line on stdout is the answer's.
    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        result: Mapping[str, Any] = work()
    except ModelError as error:
        result = {"error": error.message}
    with stdout:
        json.dump(result, stdout)
