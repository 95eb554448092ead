"""``imgsim tune``: measures the model on this machine, and chooses threads, batch and precision by that."""

import asyncio
import hashlib
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from imgsim.container import Container, is_packaged, judge_int8, looks_like_image
from imgsim.core.errors import ImgsimError, InvalidRequest, ModelError, SettingsError
from imgsim.core.models import Picture
from imgsim.core.ports import Embedder
from imgsim.core.threads import usable_cores
from imgsim.settings import Settings, mask_url

log = logging.getLogger(__name__)

BATCHES = (1, 2, 4, 8, 16)

MARGIN = 0.03
"""What is this near to the fastest is as fast: a machine drifts by more from one minute to the next."""

MOST_PICTURES = 64
LEAST_FOR_INT8 = 16
"""Distinct pictures; the gate of int8 asks for as many."""

_ROUNDS = 3  # the median of three leaves one that was disturbed out
_LEAST_CALLS = 5


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to run the model."""

    threads: int
    batch: int
    precision: str = "fp32"

    def __str__(self) -> str:
        return f"threads {self.threads}, batch {self.batch}, {self.precision}"


class Figures(NamedTuple):
    images_per_second: float
    """With all threads busy."""
    alone_ms: float
    """p50 of one picture after another, nothing beside it."""
    busy_ms: float
    """p50 of an urgent picture, as a search brings it, while all threads are busy."""


Compared = Mapping[Layout, Figures]


@dataclass(slots=True)
class Tuning:
    """What was measured, and what follows."""

    model: str
    cores: int
    pictures: int
    """How many of the user's own; 0: made ones."""
    steps: list[Compared] = field(default_factory=list)
    """Threads, then batch, then precision; each with what the step before chose."""
    int8: str = ""
    """What came out of judging int8, or why it was not judged; empty for a model without."""
    chosen: dict[str, int | str] = field(default_factory=dict)
    """Keys of ``[embedder]``, only those that were measured."""

    def as_json(self) -> dict[str, Any]:
        measured = [asdict(layout) | figures._asdict() for step in self.steps for layout, figures in step.items()]
        values = {name: getattr(self, name) for name in ("model", "cores", "pictures", "int8")}
        return values | {"measured": measured, "chosen": self.chosen}


def thread_candidates(cores: int) -> list[int]:
    """One, half of the cores, all: cores that share an execution unit are best left half idle."""
    return sorted({1, max(1, cores // 2), cores})


def choose(compared: Compared) -> Layout:
    """The simplest (fp32, fewest threads, smallest batch) of those within ``MARGIN`` of the fastest."""
    least = (1 - MARGIN) * max(figures.images_per_second for figures in compared.values())
    near = [layout for layout, figures in compared.items() if figures.images_per_second >= least]
    return min(near, key=lambda layout: (layout.precision != "fp32", layout.threads, layout.batch))


def check_tunable(settings: Settings) -> None:
    """``SettingsError`` unless the model runs in the process that asks."""
    if settings.embedder.url.partition(":")[0] != "local":
        raise SettingsError(
            f"imgsim tune measures the model where it runs, and embedder.url is {mask_url(settings.embedder.url)!r}: "
            "run it on the machine of the embedder with the settings of that, where embedder.url is local:."
        )


async def tune(settings: Settings, files: Sequence[Path], seconds: float, say: Callable[[str], None]) -> Tuning:
    """Measure the model of `settings`, each candidate for `seconds` under full load, on a sample of `files`.

    Without `files`, on made pictures, and int8 is not judged. `say` is told what is going on. ``SettingsError`` as
    ``check_tunable``, ``ModelError`` for a model that cannot be opened, ``InvalidRequest`` where no file is an image.
    """
    check_tunable(settings)
    say("opening the model; the first time it is exported, which takes a while")
    model, pictures = await _open_once(settings, files)
    own, cores, packaged = len(pictures), usable_cores(), is_packaged(settings)
    tuning = Tuning(model, cores, own)
    bench = Bench(settings, pictures or list(made_pictures()), seconds, say)

    async def best(layouts: Sequence[Layout]) -> Layout:
        tuning.steps.append(await bench.compare(layouts))
        return choose(tuning.steps[-1])

    layout = await best([Layout(n, 1 if packaged else settings.embedder.batch) for n in thread_candidates(cores)])
    tuning.chosen["threads"] = 0 if layout.threads == cores else layout.threads
    if packaged:
        return tuning
    layout = await best([Layout(layout.threads, batch) for batch in BATCHES])
    tuning.chosen["batch"] = layout.batch
    if own < LEAST_FOR_INT8:
        tuning.int8 = f"int8 was not judged: that takes {LEAST_FOR_INT8} different pictures of yours, see --images."
        return tuning
    say(f"judging int8 by {own} pictures")
    passed, tuning.int8 = await _judge_int8(settings, pictures)
    if passed:  # int8 computes one by one, whatever the batch
        layout = await best([layout, Layout(layout.threads, 1, "int8")])
    tuning.chosen |= {"batch": layout.batch, "precision": layout.precision}
    return tuning


async def _judge_int8(settings: Settings, pictures: Sequence[Picture]) -> tuple[bool, str]:
    try:
        passed, seen = await judge_int8(settings, pictures)
    except ModelError as error:
        return False, f"int8 cannot be had: {error.message}"
    return passed, f"int8 {'passed' if passed else 'did not pass'}: {seen}"


async def _open_once(settings: Settings, files: Sequence[Path]) -> tuple[str, list[Picture]]:
    """The model's id, and pictures from `files` in the size that the door would bring them to."""
    container = Container(settings=_with(settings, precision="fp32"))
    async with container.embedder() as embedder:
        return embedder.model_id, await _read(container, files) if files else []


async def _read(container: Container, files: Sequence[Path]) -> list[Picture]:
    """Distinct pictures from `files`, at most ``MOST_PICTURES``, in a random order that is always the same.

    Neighbours in a folder are often alike: the first ones would be no sample.
    """
    reader, found = container.reader(), dict[bytes, Picture]()
    try:
        for path in random.Random(0).sample(files, len(files)):
            if len(found) == MOST_PICTURES:
                break
            try:
                if path.is_file() and looks_like_image(path):
                    with path.open("rb") as file:
                        picture = (await reader.inspect(file)).picture
                    found[hashlib.sha256(picture.tobytes()).digest()] = picture
            except (OSError, ImgsimError) as error:
                log.warning("passed over %s: %s", path, error)
    finally:
        await reader.close()
    if not found:
        raise InvalidRequest(f"None of the {len(files)} files is an image that can be read.")
    return list(found.values())


def made_pictures(count: int = 16) -> Iterator[Picture]:
    """Smooth pictures of 640x480, always the same."""
    generator = np.random.default_rng(0)
    down, across = np.linspace(0, 1, 480)[:, None, None], np.linspace(0, 1, 640)[None, :, None]
    for _ in range(count):
        one, other, phase = generator.uniform(0, 20, (3, 3))  # each for three channels
        yield (127.5 * (1 + np.sin(one * down + other * across + phase))).astype(np.uint8)


class Bench:
    """Measures layouts of the model of `settings` on the same `pictures`."""

    def __init__(
        self, settings: Settings, pictures: Sequence[Picture], seconds: float, say: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._pictures = pictures
        self._seconds = seconds / _ROUNDS
        self._say = say

    async def compare(self, layouts: Sequence[Layout]) -> Compared:
        """In rounds, each second one backwards: a machine that slows down meanwhile slows all of them."""
        rounds: dict[Layout, list[Figures]] = {layout: [] for layout in layouts}
        for number in range(_ROUNDS):
            for layout in layouts[:: -1 if number % 2 else 1]:
                self._say(f"{layout} (round {number + 1} of {_ROUNDS})")
                rounds[layout].append(await self._measure(layout))
        return {layout: Figures(*map(median, zip(*figures, strict=True))) for layout, figures in rounds.items()}

    async def _measure(self, layout: Layout) -> Figures:
        at_once = layout.threads * layout.batch
        callers = 2 * at_once  # as many compute as wait
        settings = _with(self._settings, **asdict(layout), queue=max(self._settings.embedder.queue, 2 * callers))
        async with Container(settings=settings).embedder() as embedder:
            await self._load(embedder, at_once, 0)  # warm
            alone = await self._wait(embedder, urgent=False)
            rate = await self._load(embedder, callers, self._seconds)
            busy = await self._wait_beside_load(embedder, callers)
        return Figures(rate, alone, busy)

    async def _load(self, embedder: Embedder, callers: int, seconds: float) -> float:
        """Images per second."""
        stop, begun = asyncio.Event(), time.perf_counter()
        asyncio.get_running_loop().call_later(seconds, stop.set)
        done = await self._keep_busy(embedder, callers, stop)
        return done / (time.perf_counter() - begun)

    async def _wait_beside_load(self, embedder: Embedder, callers: int) -> float:
        stop = asyncio.Event()

        async def wait() -> float:
            try:
                return await self._wait(embedder, urgent=True)
            finally:
                stop.set()

        _, busy = await asyncio.gather(self._keep_busy(embedder, callers, stop), wait())
        return busy

    async def _keep_busy(self, embedder: Embedder, callers: int, stop: asyncio.Event) -> int:
        """How many pictures were embedded until `stop`; each caller finishes what it has begun."""
        following = itertools.cycle(self._pictures)

        async def call() -> int:
            done = 0
            while not (done and stop.is_set()):
                await embedder.embed_images([next(following)])
                done += 1
            return done

        return sum(await asyncio.gather(*(call() for _ in range(callers))))

    async def _wait(self, embedder: Embedder, urgent: bool) -> float:
        """p50 of one call after another, in milliseconds."""
        following, took, end = itertools.cycle(self._pictures), list[float](), time.perf_counter() + self._seconds / 4
        while len(took) < _LEAST_CALLS or time.perf_counter() < end:
            begun = time.perf_counter()
            await embedder.embed_images([next(following)], urgent)
            took.append(1000 * (time.perf_counter() - begun))
        return median(took)


def _with(settings: Settings, **embedder: Any) -> Settings:
    return settings.model_copy(update={"embedder": settings.embedder.model_copy(update=embedder)})


def as_table(tuning: Tuning) -> Iterator[str]:
    """Lines; steps are apart, and the choice of each has a star."""
    yield f"{'threads':>7} {'batch':>6} {'precision':>10} {'images/s':>9} {'alone ms':>9} {'busy ms':>9}"
    for number, compared in enumerate(tuning.steps):
        chosen = choose(compared)
        if number:
            yield ""
        for layout, (rate, alone, busy) in compared.items():
            star = " *" if layout == chosen else ""
            columns = f"{layout.threads:>7} {layout.batch:>6} {layout.precision:>10}"
            yield f"{columns} {rate:>9.1f} {alone:>9.1f} {busy:>9.1f}{star}"
