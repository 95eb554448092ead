"""The five ports. Adapters implement them; the container chooses the adapters by URL scheme.

Every adapter is an async context manager: entering opens it (and makes what it needs: folders,
tables, buckets), leaving closes it. All raise ``Unavailable`` while what is behind them cannot
be reached, and ``ping`` is how ``/ready`` asks.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, BinaryIO, Protocol, Self
from uuid import UUID

from imgsim.core.models import (
    Bell,
    CacheKey,
    CopyNote,
    DuplicateGroup,
    EmbeddingInfo,
    Hit,
    Image,
    ImageError,
    ImageFilter,
    ImageState,
    ObjectInfo,
    Picture,
    Point,
    PresignedPut,
    Reservation,
    SearchFilter,
    Vector,
    Vectors,
)


class Adapter(AbstractAsyncContextManager[Any], Protocol):
    """What every adapter can do."""

    async def __aenter__(self) -> Self: ...

    async def ping(self) -> None:
        """Return when the part behind this adapter answers; raise ``Unavailable`` when it does not."""
        ...


class ObjectStore(Adapter, Protocol):
    """Bytes by key. Keys are ASCII paths such as ``originals/7f/01…7f``."""

    async def put(self, key: str, source: BinaryIO, content_type: str, durable: bool = True) -> int:
        """Store all of `source` (read from its start) durably and atomically; return the bytes written.

        A reader sees the old object, the new one or none, never a part. A repeat replaces it.
        `source` stays open. Not `durable`, for what can be made anew: a power cut may undo it, or leave part of it.
        """
        ...

    def get(self, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """Stream `length` bytes (None: all) from offset `start`, in chunks of at most 1 MiB.

        ``ObjectNotFound`` when the key is missing, at the first chunk. A range past the end gives
        what there is.
        """
        ...

    async def presign_get(self, key: str, seconds: int, filename: str, download: bool = False) -> str | None:
        """A URL that serves the object for `seconds`, or None where the store has none (files on disk).

        A browser shows it, or with `download` saves it as `filename`.
        """
        ...

    async def presign_put(
        self, key: str, seconds: int, content_type: str, size: int, sha256: str
    ) -> PresignedPut | None:
        """A request that stores exactly `size` bytes of `content_type` with this hex digest, once, within
        `seconds`; or None where the store has none (files on disk)."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the object. A missing key is no error."""
        ...

    async def exists(self, key: str) -> bool: ...

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, in no particular order."""
        ...


class ImageRepository(Adapter, Protocol):
    """The truth about every image: rows, states, leases, and the embedding cache.

    A *claim* gives one owner the right to work on an image until its lease expires. The fence of a
    claim is the pair (id, attempts): every claim adds one to ``attempts``, and the methods that take
    `attempt` change nothing and raise ``LeaseLost`` when the row has moved on.

    A deleted image leaves a tombstone that no method but those for tombstones sees.
    """

    async def add(self, image: Image) -> Image:
        """Insert `image` durably and return it; where its collection has these bytes already, return
        the existing image with ``duplicate=True`` and change nothing."""
        ...

    async def get(self, image_id: UUID) -> Image:
        """``ImageNotFound`` when there is none."""
        ...

    async def get_many(self, image_ids: Sequence[UUID]) -> Mapping[UUID, Image]:
        """Those of `image_ids` that exist, in one query."""
        ...

    async def find(self, collection: str, sha256: str) -> Image | None:
        """The image of `collection` with these bytes."""
        ...

    async def list(self, where: ImageFilter, limit: int, before: UUID | None = None) -> Sequence[Image]:
        """Newest first: ids descending, all below `before`."""
        ...

    async def collections(self, limit: int) -> Sequence[str]:
        """The names of the collections that have images, sorted, the first `limit` of them; fast among millions."""
        ...

    async def counts(self) -> Mapping[ImageState, int]:
        """How many images are in each state; every state is a key."""
        ...

    async def update(
        self, image_id: UUID, tags: Sequence[str] | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Image:
        """Replace what is given. ``ImageNotFound`` when there is none."""
        ...

    async def add_tag(self, image_id: UUID, tag: str) -> Image:
        """Put `tag` behind the tags that the image has in this moment, whoever is changing them; return the image.

        Nothing changes where it is among them, or where they are ``MOST_TAGS`` already. ``ImageNotFound``.
        """
        ...

    # the life of a job

    async def mark_pending(self, image_ids: Sequence[UUID]) -> Sequence[Image]:
        """``created → pending`` for those still ``created``; return the ones changed."""
        ...

    async def claim(
        self, image_ids: Sequence[UUID], owner: str, lease_seconds: float, stage: str, lost: bool = False
    ) -> Sequence[Image]:
        """Claim those that are unfinished, due and under no live lease, for `stage` (the first one).

        Each gets ``attempts + 1``, `stage`, the state of that stage (``pending`` where it has none)
        and a lease of `lease_seconds` from now. Returns the claimed images; of two racers, one has it.
        Those of ``lost`` are passed over; with `lost` only they are claimed.
        """
        ...

    async def renew(self, owner: str, image_ids: Sequence[UUID], lease_seconds: float) -> set[UUID]:
        """Extend the owner's leases to `lease_seconds` from now; return the ids it still holds."""
        ...

    async def advance(self, image_id: UUID, attempt: int, stage: str, features: Mapping[str, Any]) -> Image:
        """Note that `stage` runs now (and the state of that stage, where it has one), and what the stages
        before it found in this attempt, in place of what the row had. ``LeaseLost``."""
        ...

    async def finish(
        self, image_id: UUID, attempt: int, features: Mapping[str, Any], embedding: EmbeddingInfo | None
    ) -> Image:
        """To ``done``: lease, stage and error cleared. `embedding` None: rejected. ``LeaseLost``."""
        ...

    async def fail(
        self, image_id: UUID, attempt: int, error: ImageError, retry_at: datetime | None, counts: bool = True
    ) -> Image:
        """End this attempt: to ``pending`` and due at `retry_at`, or to ``error`` where that is None.

        `counts` False gives the attempt back to the budget of ``max_attempts``. ``LeaseLost``.
        """
        ...

    async def failures(self, image_id: UUID) -> int:
        """How many attempts of the budget are used, the running one included; ``retry`` sets it to 0."""
        ...

    async def release(self, owner: str) -> Sequence[UUID]:
        """Hand back every claim of `owner` as ``pending``, due now; the attempts are given back to the budget."""
        ...

    async def end_leases(self) -> int:
        """Every owner is dead: their claims count as ``lost`` from now. Returns how many there were.

        Tombstones under a claim are released.
        """
        ...

    async def due(self, limit: int) -> Sequence[Bell]:
        """Unfinished images that are due and under no claim, longest due first: bells to ring again."""
        ...

    async def lost(self, limit: int) -> Sequence[UUID]:
        """Unfinished images whose lease ran out, oldest first: their process died, maybe because of them."""
        ...

    async def bury(self, max_attempts: int) -> Sequence[Image]:
        """To ``error`` (type ``worker-lost``) with those whose lease ran out in their last allowed attempt."""
        ...

    async def retry(self, image_id: UUID) -> Image:
        """``error → pending`` with a new budget. ``WrongState`` in any other state, ``ImageNotFound``."""
        ...

    # uploads straight to the object store

    async def reserve(self, reservation: Reservation) -> None:
        """Keep `reservation` durably."""
        ...

    async def reservation(self, image_id: UUID) -> Reservation:
        """``ImageNotFound`` when there is none."""
        ...

    async def mark_confirmed(self, image_id: UUID, came_of_it: UUID) -> None:
        """Note the image that came of the reservation. A missing one is no error."""
        ...

    async def unreserve(self, image_id: UUID) -> None:
        """Forget the reservation. A missing one is no error."""
        ...

    async def expired_reservations(self, limit: int) -> Sequence[UUID]:
        """The ids of reservations whose time is over, oldest first."""
        ...

    # duplicates

    async def note_copies(self, image_id: UUID, copies: Sequence[UUID]) -> None:
        """Put the image into one group with each of `copies`, all of its collection, and so with their copies.

        Repeats change nothing. Left apart is what would bring two images of one dismissed group together again;
        ids that are not there are passed over.
        """
        ...

    async def copy_groups(
        self, limit: int, collection: str | None = None, after: UUID | None = None
    ) -> Sequence[DuplicateGroup]:
        """Groups of copies by ascending id, all above `after`, each with at most 100 images. A group's id is that of
        its oldest member when it was made."""
        ...

    async def identical_groups(self, limit: int, after: str = "") -> Sequence[DuplicateGroup]:
        """Images of all collections with the same bytes, by ascending sha256, all above `after`; of a dismissed group
        the oldest alone. Each with at most 100 images."""
        ...

    async def dismiss_group(self, group_id: UUID, images: Sequence[UUID] | None = None) -> None:
        """Mark the images of the group as no duplicates of each other, for good; with `images` only these of it.

        Of `images` the oldest stays in one group with those that were not named, so that none of these is left alone:
        what it is a copy of may be any of `images`. The others leave. Passed over is what is not in the group, or not
        searchable. ``GroupNotFound``, also where fewer than two are left.
        """
        ...

    async def copy_notes(self, image_ids: Sequence[UUID]) -> Sequence[CopyNote]:
        """What is known of those of `image_ids` that are in a group of copies, or were dismissed."""
        ...

    async def keep_copy_notes(self, notes: Sequence[CopyNote]) -> None:
        """Keep what another repository knows, in place of what is known here of the same images. A repeat changes
        nothing; images that are not here are passed over."""
        ...

    # delete

    async def entomb(self, image_id: UUID) -> Image:
        """Turn the row into a tombstone, fenced against the running job. ``ImageNotFound``."""
        ...

    async def tombstones(self, limit: int) -> Sequence[Image]:
        """Tombstones under no live lease: nobody works on them any more."""
        ...

    async def purge(self, image_id: UUID) -> None:
        """Remove the tombstone for good. A missing one is no error."""
        ...

    # the embedding cache

    async def cached_embedding(self, key: CacheKey) -> Vector | None: ...

    async def cache_embedding(self, key: CacheKey, vector: Vector) -> None:
        """Keep `vector`; a repeat changes nothing."""
        ...

    async def sweep_cache(self, keep_seconds: float) -> int:
        """Remove the embeddings whose bytes no image has had for `keep_seconds`; return how many."""
        ...


class VectorIndex(Adapter, Protocol):
    """Nearest neighbours by cosine. One collection of vectors per model; an alias says which is live."""

    async def open_collection(self, model: str, dimensions: int) -> None:
        """Make the collection of `model` if it is missing. ``VectorRefused`` if it has other dimensions."""
        ...

    async def models(self) -> Sequence[str]:
        """The models that have a collection, sorted."""
        ...

    async def set_live(self, model: str) -> None:
        """Point the alias at the collection of `model`, atomically."""
        ...

    async def live(self) -> str | None:
        """The model the alias points at."""
        ...

    async def upsert(self, model: str, points: Sequence[Point]) -> None:
        """Add or replace, durably. ``VectorRefused`` for a wrong dimension or a value that is not finite."""
        ...

    async def query(
        self,
        model: str,
        vector: Vector,
        limit: int,
        where: SearchFilter,
        min_score: float | None = None,
        exact: bool = False,
    ) -> Sequence[Hit]:
        """The `limit` best of those that pass `where` and score at least `min_score`.

        Best first, ties by id; which of several equal scores at the end are left out is open. `exact`: every float32
        vector that passes is compared, with no graph and no quantized one, which takes the longer the more there are.
        """
        ...

    async def fetch(self, model: str, image_ids: Sequence[UUID]) -> Mapping[UUID, Vector]:
        """The stored vectors of those that are there."""
        ...

    async def sample(self, model: str, collection: str | None, n: int) -> Vectors:
        """``(m, dimensions)``: the vectors of m different points of `collection` (None: of all), drawn at random.

        m is `n`, or as many as there are.
        """
        ...

    async def set_payload(self, model: str, image_id: UUID, tags: Sequence[str], metadata: Mapping[str, Any]) -> None:
        """Replace the tags and the metadata of a point. A missing point is no error."""
        ...

    async def delete(self, image_ids: Sequence[UUID]) -> None:
        """Remove from every collection, durably. Missing points are no error."""
        ...

    async def count(self, model: str) -> int: ...

    def ids(self, model: str) -> AsyncIterator[UUID]:
        """Every point's id, in no particular order."""
        ...


class JobQueue(Adapter, Protocol):
    """Rings the bell for an image. A bell may be lost or ring twice; the database row is the truth."""

    async def enqueue(self, bells: Sequence[Bell]) -> None:
        """Ring `bells`; one that rings already is not rung twice."""
        ...

    async def consume(self, handle: Callable[[Sequence[UUID]], Awaitable[None]], concurrency: int) -> None:
        """Call `handle` with the ids that ring, at most `concurrency` images at a time, until cancelled.

        On cancellation the running calls are cancelled too and awaited. Where `handle` raises ``Unavailable``,
        its bells ring on: at once for other consumers, after ``retry_after`` for this one. Any other exception
        is logged and ends that call only.
        """
        ...

    async def depth(self) -> int:
        """Bells that ring and are not answered yet."""
        ...


class Embedder(Adapter, Protocol):
    """Images, and text where the model can, to vectors of one space. Batch first."""

    @property
    def model_id(self) -> str:
        """Name and weights revision, as in ``efficientnet-lite0@1``."""
        ...

    @property
    def preprocessing(self) -> str:
        """Version of what is done to a picture before the model sees it; part of the cache key."""
        ...

    @property
    def dimensions(self) -> int: ...

    @property
    def input_size(self) -> int:
        """Pixels of the longer side of the model's input; pictures of twice that lose nothing."""
        ...

    @property
    def supports_text(self) -> bool: ...

    async def embed_images(self, pictures: Sequence[Picture], urgent: bool = False) -> Vectors:
        """``(n, dimensions)`` float32, rows of unit length, in the order of `pictures`.

        Calls that wait at the same time are computed together; those that are `urgent`, as somebody waits for the
        answer, before the others. ``EmbeddingFailed`` for a picture that
        the model cannot take; ``Overloaded`` when too many wait.
        """
        ...

    async def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """As ``embed_images``. ``TextNotSupported`` where the model has no text side."""
        ...
