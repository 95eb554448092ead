"""The gate before int8, on the pictures that a running embedder is given anyway."""

import asyncio
import logging
from threading import Lock

import numpy as np

from imgsim.adapters.embedding.onnx_cache import Found
from imgsim.adapters.embedding.onnx_int8 import SAMPLE, judge
from imgsim.core.errors import ModelError
from imgsim.core.models import Picture

log = logging.getLogger(__name__)


class Int8Trial:
    """Keeps the first ``SAMPLE`` distinct pictures and has int8 judged by them, once, while others are embedded.

    The verdict counts from the next start on: vectors of one process are of one kind. Make it in a running loop.
    """

    def __init__(self, found: Found) -> None:
        self._found = found
        self._loop = asyncio.get_running_loop()
        self._lock = Lock()
        self._sample: dict[bytes, Picture] | None = {}
        self._judging: asyncio.Task[None] | None = None

    def see(self, pixels: Picture) -> None:
        """One picture, ``(height, width, 3)``, as the model takes it. From any thread."""
        with self._lock:
            if self._sample is None:
                return
            content = pixels.tobytes()
            self._sample.setdefault(content, np.frombuffer(content, np.uint8).reshape(pixels.shape))
            if len(self._sample) < SAMPLE:
                return
            sample, self._sample = list(self._sample.values()), None
        self._loop.call_soon_threadsafe(self._begin, sample)

    async def close(self) -> None:
        """Call when ``see`` is not called any more. A verdict that is not reached yet is left to the next start."""
        if self._judging:
            self._judging.cancel()
            await asyncio.wait([self._judging])

    def _begin(self, sample: list[Picture]) -> None:
        self._judging = self._loop.create_task(self._judge(sample))

    async def _judge(self, sample: list[Picture]) -> None:
        try:
            verdict = await judge(self._found, sample)
        except ModelError as error:
            log.warning("int8 could not be judged: %s", error.message)
        else:
            log.info("%s is used from the next start on", "int8" if verdict.passed else "fp32 still")
