"""What computes runs beside the event loop, in few threads."""

import asyncio
import threading
import time

import pytest

from imgsim.core.threads import COMPUTING, compute


async def test_few_threads_compute() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(number: int, *, factor: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1
        assert threading.current_thread() is not threading.main_thread()
        return number * factor

    assert await asyncio.gather(*(compute(work, number, factor=2) for number in range(20))) == [*range(0, 40, 2)]
    assert most == min(20, COMPUTING)


async def test_what_the_function_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await compute(divmod, 1, 0)
