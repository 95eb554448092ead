"""Takes images through the stages, under a claim that a heartbeat keeps alive."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from imgsim.core.errors import (
    BrokenImage,
    ImageRejected,
    ImgsimError,
    LeaseLost,
    Overloaded,
    RetryLater,
    TooManyPixels,
    Unavailable,
    UnsupportedImage,
)
from imgsim.core.events import EventBus
from imgsim.core.gate import Gate
from imgsim.core.models import EmbeddingInfo, Image, ImageError, ImageEvent
from imgsim.core.pictures import PictureBuffer
from imgsim.core.precedence import Precedence
from imgsim.core.services.ingest import ImageReader
from imgsim.core.services.payload import index_payload
from imgsim.pipeline.stage import Ports, Stage, StageContext, is_noted

log = logging.getLogger("imgsim.pipeline")

_LONGEST_WAIT = 300.0
_SECONDS_ALONE = 5.0
_SECONDS_AT_THE_GATE = 1.0
_FOR_GOOD = 86_400.0
_SECONDS_BETWEEN_LOOKS = 1.0
_MOST_LOST = 100
_LONGEST_RETRY_LATER = 30 * 86_400.0
_HOPELESS = (BrokenImage, TooManyPixels, UnsupportedImage)
"""Errors that lie in the bytes: another attempt would end the same way."""


class StageTimeout(ImgsimError):
    """The stage took longer than it may."""

    code = "timeout"


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """How patient the runner is. Times in seconds."""

    lease_seconds: float
    max_attempts: int
    backoff_seconds: float
    timeout_of: Callable[[str], float]
    retries_of: Callable[[str], int]


Observer = Callable[[str, float, str], None]
"""Told of every run of a stage: its name, how many seconds it took, ``ok`` or an error type."""


Note = Callable[[], Awaitable[Image]]
"""Writes down how an attempt ended."""


class Runner:
    def __init__(
        self,
        *,
        stages: Sequence[Stage],
        ports: Ports,
        reader: ImageReader,
        events: EventBus,
        pictures: PictureBuffer,
        precedence: Precedence,
        policy: RunPolicy,
        owner: str,
        observe: Observer,
    ) -> None:
        self.owner = owner
        self._stages = stages
        self._ports = ports
        self._reader = reader
        self._events = events
        self._pictures = pictures
        self._precedence = precedence
        self._policy = policy
        self._observe = observe
        self._held: dict[UUID, asyncio.Task[None]] = {}
        self._concluding: set[UUID] = set()  # their outcome is being noted: the claim may end any moment
        self._alone: set[asyncio.Task[None]] = set()
        self._gate = Gate()
        self._waiting: asyncio.Task[None] | None = None
        self._unnoted: list[tuple[Image, Note]] = []
        self._suspects: set[UUID] = set()  # were under way both times when a part went away
        self._draining = False

    async def process(self, image_ids: Sequence[UUID]) -> None:
        """Claim those of `image_ids` that can be claimed, and take each through all stages.

        One image's failure is that image's alone. ``Unavailable`` where the gate stays shut, or the process is
        about to stop: these images are left to others. Cancelled, it leaves its claims to ``release``.
        """
        try:
            async with asyncio.timeout(_SECONDS_AT_THE_GATE):
                await self._gate.opened()
        except TimeoutError as error:
            raise Unavailable("This process takes no images for now.", _SECONDS_AT_THE_GATE) from error
        if self._draining:
            raise Unavailable("This process takes no more images.", _FOR_GOOD)
        # A bell for what runs here already: the reconciler's, after a sleep longer than the lease.
        await self._process([image_id for image_id in image_ids if image_id not in self._held])

    async def _process(self, image_ids: Sequence[UUID], *, lost: bool = False, on_trial: bool = False) -> None:
        if self._draining:
            return
        images, policy = self._ports.images, self._policy
        try:
            claimed = await images.claim(image_ids, self.owner, policy.lease_seconds, self._stages[0].name, lost)
        except Unavailable as error:
            self._hold_back(error)
            return
        tasks = []
        for image in claimed:
            self._events.publish(ImageEvent.of(image))
            task = asyncio.create_task(self._attempt(image, on_trial), name=f"image {image.id}")
            self._held[image.id] = task
            task.add_done_callback(partial(self._let_go, image.id))
            tasks.append(task)
        try:
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        for image, outcome in zip(claimed, outcomes, strict=True):
            if isinstance(outcome, Exception):  # the lease runs out, and the image is tried again
                log.error("the outcome of image %s could not be noted", image.id, exc_info=outcome)

    def _let_go(self, image_id: UUID, task: asyncio.Task[None]) -> None:
        self._concluding.discard(image_id)
        if self._held.get(image_id) is task:
            del self._held[image_id]

    async def recover(self) -> None:
        """Process the images whose process died: one at a time, and nothing else beside.

        So the one that kills its process costs its neighbours no further attempt. What has not done so
        after some seconds is slow rather than deadly, and goes on beside the others.
        """
        await self._gate.opened()
        try:
            if lost := await self._ports.images.lost(_MOST_LOST):
                with self._gate.shut():
                    await self._until_idle()
                    for image_id in lost:
                        await self._process_alone(image_id, lost=True)
        except Unavailable as error:
            self._hold_back(error)
        except Exception:
            log.exception("the images of dead processes could not be processed")

    async def _until_idle(self) -> None:
        if self._held:
            await asyncio.wait(list(self._held.values()), timeout=_SECONDS_ALONE)

    async def _process_alone(self, image_id: UUID, *, lost: bool = False, on_trial: bool = False) -> None:
        task = asyncio.create_task(self._process([image_id], lost=lost, on_trial=on_trial))
        self._alone.add(task)
        task.add_done_callback(self._alone.discard)
        await asyncio.wait([task], timeout=_SECONDS_ALONE)

    async def recover_forever(self, every_seconds: float) -> None:
        while True:
            await asyncio.sleep(every_seconds)
            await self.recover()

    def _hold_back(self, error: Unavailable) -> None:
        """Take no more images until every part answers: attempts that must fail help nobody."""
        if not self._draining and (self._waiting is None or self._waiting.done()):
            log.warning("taking no more images for now: %s", error)
            self._waiting = asyncio.create_task(self._wait_until_well(), name="wait until well")

    async def _wait_until_well(self) -> None:
        with self._gate.shut():
            while True:
                while not await self._ports.answer():  # noqa: ASYNC110 (servers tell nobody that they are back)
                    await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
                if self._unnoted:
                    await self._note_again()
                elif self._suspects:
                    await self._try_suspects()
                else:
                    break
        log.info("taking images again")

    async def _note_again(self) -> None:
        unnoted, self._unnoted = self._unnoted, []
        for image, note in unnoted:
            with self._abandoning(image, note):
                self._events.publish(ImageEvent.of(await note()))
        if self._unnoted and await self._ports.answer():  # so it is not the database: the leases may run out
            log.error("the outcome of %d images cannot be noted", len(self._unnoted))
            self._unnoted.clear()

    async def _try_suspects(self) -> None:
        """Process what was under way whenever a part went away, one image at a time, while all parts answer.

        Should one go away again, then the image that runs alone is the reason, and its attempt counts.
        """
        await self._until_idle()
        while self._suspects and await self._ports.answer():
            await self._process_alone(self._suspects.pop(), on_trial=True)

    async def heartbeat(self) -> None:
        """Renew the leases three times in their life, until cancelled."""
        while True:
            await asyncio.sleep(self._policy.lease_seconds / 3)
            await self.renew()

    async def renew(self) -> None:
        """Renew the leases of all that runs here; stop the work on those that were lost."""
        held = dict(self._held)
        if not held:
            return
        try:
            alive = await self._ports.images.renew(self.owner, list(held), self._policy.lease_seconds)
        except Unavailable as error:
            log.warning("the leases could not be renewed: %s", error)
            return
        except Exception:  # without a heartbeat every lease of this process would run out
            log.exception("the leases could not be renewed")
            return
        for image_id in held.keys() - alive - self._concluding:
            log.info("the claim on image %s is gone, its attempt is stopped", image_id)
            held[image_id].cancel()

    async def drain(self, seconds: float) -> None:
        """Claim nothing more, and wait up to `seconds` for what runs."""
        self._stop_claiming()
        if self._held:
            log.info("finishing %d images", len(self._held))
            await asyncio.wait(list(self._held.values()), timeout=seconds)

    def _stop_claiming(self) -> None:
        self._draining = True
        self._gate.open_for_good()
        if self._waiting is not None:
            self._waiting.cancel()

    def hurry(self) -> None:
        """Claim nothing more, and stop the work that ``drain`` would wait for; ``release`` hands it back."""
        self._stop_claiming()
        for task in list(self._held.values()):
            task.cancel()

    async def release(self) -> None:
        """Hand back what this runner still holds; for a process that stops."""
        try:
            released = await self._ports.images.release(self.owner)
        except Unavailable as error:
            log.warning("nothing could be handed back, the leases will run out: %s", error)
            return
        if released:
            log.info("handed back %d images", len(released))

    async def _attempt(self, image: Image, on_trial: bool) -> None:
        picture = self._pictures.pop(image.id)
        ctx = StageContext(image, self._ports, self._reader.decode, picture)
        stage = self._stages[0]
        try:
            try:
                for position, stage in enumerate(self._stages):
                    if position and is_noted(stage, image.attempts):
                        ctx.image = await self._ports.images.advance(image.id, image.attempts, stage.name, ctx.results)
                        self._events.publish(ImageEvent.of(ctx.image))
                    result = await self._run(stage, ctx)
                    if result is not None:
                        ctx.results[stage.name] = result
            except ImageRejected as error:
                await self._reject(image, ctx.results, stage, error)
            else:
                await self._finish(image, ctx)
        except LeaseLost as error:
            log.info("%s", error)
        except Exception as error:
            if not isinstance(error, ImgsimError | TimeoutError):
                log.exception("stage %s failed on image %s", stage.name, image.id)
            await self._conclude(image, stage, error, on_trial)

    async def _conclude(self, image: Image, stage: Stage, error: Exception, on_trial: bool) -> None:
        """Note the failure of an attempt.

        ===================================  =======  =========================  ============
        error                                counted  tried again                gate
        ===================================  =======  =========================  ============
        ``RetryLater``, ``Overloaded``       no       when it says               stays open
        ``Unavailable``, and a part is away  no       when all parts answer      shut till then
        the same, twice in a row             no       alone, when all answer     shut till then
        the same, alone                      yes      after the backoff          shut till then
        ``Unavailable``, but all answer      yes      after the backoff          stays open
        what lies in the bytes               yes      never                      stays open
        any other                            yes      after the backoff          stays open
        ===================================  =======  =========================  ============
        """
        match error:
            case RetryLater():
                await self._fail(image, stage, error, error.seconds, counts=False)
            case Overloaded():
                await self._fail(image, stage, error, error.retry_after, counts=False)
            case Unavailable() if not await self._ports.answer():
                await self._fail(image, stage, error, await self._backoff(image) if on_trial else 0.0, counts=on_trial)
                if not on_trial and image.error is not None and image.error.type == Unavailable.code:
                    self._suspects.add(image.id)
                self._hold_back(error)
            case BrokenImage() | TooManyPixels() | UnsupportedImage():
                await self._fail(image, stage, error, None)
            case _:
                await self._fail(image, stage, error, await self._backoff(image))

    async def _run(self, stage: Stage, ctx: StageContext) -> Any:
        """One stage, with its timeout and its retries within this attempt."""
        await self._precedence.let_pass()
        retries = self._policy.retries_of(stage.name)
        for again in range(retries, -1, -1):
            started = time.perf_counter()
            outcome = "ok"
            try:
                return _json_able(await self._run_once(stage, ctx), stage.name)
            except (ImageRejected, RetryLater, LeaseLost, Unavailable, *_HOPELESS) as error:
                outcome = error.code
                raise
            except Exception as error:
                outcome = _error_type(error)
                if not again:
                    raise
                log.warning("stage %s failed on image %s, running it again: %s", stage.name, ctx.image.id, error)
            finally:
                self._observe(stage.name, time.perf_counter() - started, outcome)
        raise AssertionError("the loop returns or raises")

    async def _run_once(self, stage: Stage, ctx: StageContext) -> Any:
        seconds = self._policy.timeout_of(stage.name)
        try:
            async with asyncio.timeout(seconds) as timeout:
                return await stage.run(ctx)
        except TimeoutError as error:
            if not timeout.expired():  # the stage's own
                raise
            raise StageTimeout(f"The stage took longer than {seconds:g} s (pipeline.timeout_seconds).") from error
        except (asyncio.CancelledError, SystemExit) as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled this attempt: the stage let something escape that would end more than itself.
            raise RuntimeError(f"the stage raised {type(error).__name__}") from error

    async def _finish(self, image: Image, ctx: StageContext) -> None:
        self._concluding.add(image.id)
        embedding = None
        if ctx.embedding is not None:
            embedding = EmbeddingInfo(self._ports.embedder.model_id, len(ctx.embedding))
        done = await self._ports.images.finish(image.id, image.attempts, ctx.results, embedding)
        try:
            was = ctx.indexed
            changed = was is not None and (list(done.tags), done.metadata) != (list(was.tags), was.metadata)
            if changed:
                await index_payload(done, self._ports.images, self._ports.vectors)
        except ImgsimError as error:
            log.error("image %s is done, but its new tags and metadata are not in the index: %s", done.id, error)
        finally:
            self._events.publish(ImageEvent.of(done))

    async def _reject(self, image: Image, results: dict[str, Any], stage: Stage, error: ImageRejected) -> None:
        features = {**results, stage.name: {"rejected": True, "reason": error.message}}
        await self._ports.vectors.delete([image.id])  # of an earlier run
        self._concluding.add(image.id)
        done = await self._ports.images.finish(image.id, image.attempts, features, None)
        self._events.publish(ImageEvent.of(done))

    async def _backoff(self, image: Image) -> float | None:
        """Seconds until the next attempt; None where this was the last."""
        try:
            failures = await self._ports.images.failures(image.id)
        except ImgsimError:
            return 0.0  # deleted, or the database is away: the fence or the lease decides
        if failures >= self._policy.max_attempts:
            return None
        return min(self._policy.backoff_seconds * 2.0 ** min(failures - 1, 30), _LONGEST_WAIT)

    async def _fail(
        self, image: Image, stage: Stage, cause: Exception, wait: float | None, counts: bool = True
    ) -> None:
        error = ImageError(stage.name, _error_type(cause), _sentence(cause), image.attempts)
        retry_at = None if wait is None else datetime.now(UTC) + timedelta(seconds=min(wait, _LONGEST_RETRY_LATER))
        level = logging.ERROR if wait is None else logging.WARNING
        log.log(level, "image %s: attempt %d failed in %s: %s", image.id, image.attempts, stage.name, error.message)
        self._concluding.add(image.id)
        note = partial(self._ports.images.fail, image.id, image.attempts, error, retry_at, counts)
        with self._abandoning(image, note):
            self._events.publish(ImageEvent.of(await note()))

    @contextlib.contextmanager
    def _abandoning(self, image: Image, note: Note) -> Iterator[None]:
        """What cannot be written down now is when the database is back, or found again when the lease runs out."""
        try:
            yield
        except Unavailable as error:
            self._unnoted.append((image, note))
            self._hold_back(error)
        except ImgsimError as error:
            log.warning("the outcome of image %s could not be noted: %s", image.id, error)


def _json_able(result: Any, name: str) -> Any:
    try:
        json.dumps(result, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"The stage {name} returned something that JSON cannot hold: {error}.") from error
    return result


def _error_type(error: Exception) -> str:
    if isinstance(error, ImgsimError):
        return error.code
    return "timeout" if isinstance(error, TimeoutError) else "stage-failed"


def _sentence(error: Exception) -> str:
    text = error.message if isinstance(error, ImgsimError) else f"{type(error).__name__}: {error}".removesuffix(": ")
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:1000]  # what no database takes
