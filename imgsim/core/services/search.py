"""What looks like this?"""

import asyncio
import base64
import json
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from imgsim.core.errors import EmbeddingFailed, ImageNotFound, InvalidRequest, NotSearchable
from imgsim.core.filters import valid_filter
from imgsim.core.fingerprints import Fingerprint
from imgsim.core.models import Example, Hit, Image, Picture, SearchAnswer, SearchFilter, SearchHit, Vector
from imgsim.core.ports import Embedder, ImageRepository, VectorIndex
from imgsim.core.precedence import Precedence
from imgsim.core.services.matches import Sample
from imgsim.core.services.percentiles import Percentiles

P = ParamSpec("P")

# Hits asked for beyond the page: room for ties at its end and for images deleted a moment ago.
_SLACK = 1
_MOST_HITS = 100_000
_MOST_EXAMPLES = 100


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of an answer: at most `limit` results of at least `min_score` that come after `cursor`.

    `exact`: of a search that compares every full vector, whatever it takes.
    """

    limit: int = 10
    min_score: float | None = None
    cursor: str | None = None
    exact: bool = False


def _goes_first(
    search: Callable[Concatenate["SearchService", P], Awaitable[SearchAnswer]],
) -> Callable[Concatenate["SearchService", P], Coroutine[Any, Any, SearchAnswer]]:
    @wraps(search)
    async def method(service: "SearchService", /, *arguments: P.args, **named: P.kwargs) -> SearchAnswer:
        with service.precedence.search():
            return await search(service, *arguments, **named)

    return method


class SearchService:
    """While one of its searches is under way, other work lets it pass."""

    def __init__(
        self,
        *,
        images: ImageRepository,
        vectors: VectorIndex,
        embedder: Embedder,
        precedence: Precedence,
        fingerprint: Callable[[Picture], Fingerprint | None],
    ) -> None:
        self._fingerprint = fingerprint
        self._images = images
        self._vectors = vectors
        self._embedder = embedder
        self.precedence = precedence
        self._percentiles = Percentiles(vectors)

    @_goes_first
    async def similar(self, image_id: UUID, page: Page, where: SearchFilter) -> SearchAnswer:
        """Images like this one, which is not among them, of its own collection, whatever `where` says of that.

        Raises ``ImageNotFound``, ``NotSearchable``, ``InvalidRequest`` (cursor, filter).
        """
        model = self._embedder.model_id
        image, fetched = await asyncio.gather(  # neither needs the other, and each waits for a thread
            self._images.get(image_id), self._vectors.fetch(model, [image_id]), return_exceptions=True
        )
        if isinstance(image, BaseException):
            raise image
        if isinstance(fetched, BaseException):
            raise fetched
        vector = self._vector_of(image, fetched)
        where = replace(where, collection=image.collection)
        return await self._answer(vector, where, page, exclude={image_id}, sample=Sample.of(image))

    @_goes_first
    async def by_picture(self, picture: Picture, page: Page, where: SearchFilter, sha256: str = "") -> SearchAnswer:
        """`sha256`: the hex digest of the file that `picture` was read from, to tell identical bytes by."""
        vectors = await self._embedder.embed_images([picture], urgent=True)
        sample = Sample(sha256, lambda: self._fingerprint(picture))
        return await self._answer(vectors[0], where, page, sample=sample)

    async def by_text(self, text: str, page: Page, where: SearchFilter) -> SearchAnswer:
        """Without percentiles: no text is as near to a picture as two pictures are to each other."""
        vectors = await self._embedder.embed_texts([text])  # the first one takes seconds: nobody waits for those
        with self.precedence.search():
            return await self._answer(vectors[0], where, page, percentiles=False)

    @_goes_first
    async def by_examples(
        self, positive: Sequence[Example], negative: Sequence[Example], page: Page, where: SearchFilter
    ) -> SearchAnswer:
        """Like `positive`, unlike `negative`; none of these are among the results.

        The query is ``2 mean(w p) - mean(w n)``, of unit length: each mean is the sum of the vectors, each times its
        weight, over their number. With weights of 1 that is Qdrant's ``average_vector`` recommendation.
        """
        if not positive:
            raise InvalidRequest("A search by examples needs at least one positive image.")
        ids = [example.id for example in (*positive, *negative)]
        if len(ids) > _MOST_EXAMPLES:
            raise InvalidRequest(f"A search takes at most {_MOST_EXAMPLES} examples, not {len(ids)}.")
        _check_weights([*positive, *negative])
        images = await self._images.get_many(ids)
        for image_id in ids:
            if image_id not in images:
                raise ImageNotFound(f"No image has the id {image_id}.")
        fetched = await self._vectors.fetch(self._embedder.model_id, list(dict.fromkeys(ids)))
        vectors = {image_id: self._vector_of(images[image_id], fetched) for image_id in ids}
        query = 2 * _weighted(positive, vectors) - _weighted(negative, vectors)
        query /= max(example.weight for example in (*positive, *negative))  # so that only directions cancel out
        length = float(np.linalg.norm(query))
        if length < 1e-6:
            raise InvalidRequest("The positive and negative images cancel each other out.")
        return await self._answer((query / length).astype(np.float32), where, page, exclude=set(ids))

    async def vector(self, image: Image) -> Vector:
        """The image's vector as the index has it. ``NotSearchable``."""
        return self._vector_of(image, await self._vectors.fetch(self._embedder.model_id, [image.id]))

    def _vector_of(self, image: Image, vectors: Mapping[UUID, Vector]) -> Vector:
        if not image.searchable or image.embedding is None:
            raise NotSearchable(_why_not_searchable(image))
        model = self._embedder.model_id
        if image.embedding.model != model:
            raise NotSearchable(
                f"The image was indexed with the model {image.embedding.model}, and {model} is in use now."
            )
        if image.id not in vectors:
            raise NotSearchable("The image's vector is not in the index.")
        return vectors[image.id]

    async def _answer(
        self,
        vector: Vector,
        where: SearchFilter,
        page: Page,
        exclude: set[UUID] | None = None,
        percentiles: bool = True,
        sample: Sample | None = None,
    ) -> SearchAnswer:
        if not np.isfinite(vector).all():
            raise EmbeddingFailed()
        exclude = exclude or set()
        valid_filter(where)
        after = _Position.of(page.cursor)
        model = self._embedder.model_id
        wanted = page.limit + 1  # one more says whether there is a next page
        asked = after.offset + wanted + len(exclude) + _SLACK
        while True:
            hits = await self._vectors.query(model, vector, asked, where, page.min_score, page.exact)
            everything = len(hits) < asked or asked >= _MOST_HITS
            # Which of the equal scores at the very end were left out is open: leave out all of them.
            sure = hits if everything else [hit for hit in hits if hit.score > hits[-1].score]
            rest = [hit for hit in sure if hit.id not in exclude and after.precedes(hit)]
            found: list[SearchHit] = []
            while rest and len(found) < wanted:
                found += await self._searchable(rest[:wanted], model)
                rest = rest[wanted:]
            if everything or len(found) >= wanted:
                break
            asked = min(asked * 2, _MOST_HITS)
        results: Sequence[SearchHit] = found[: page.limit]
        more = len(found) > page.limit
        cursor = _Position(after.offset + len(results), results[-1].score, results[-1].image.id).text if more else None
        if percentiles and results:
            places = await self._percentiles.of(model, where.collection, [hit.score for hit in results])
            results = [SearchHit(hit.image, hit.score, place) for hit, place in zip(results, places, strict=True)]
        if sample and results:
            results = await sample.matched(results)
        return SearchAnswer(model, results, cursor)

    async def _searchable(self, hits: Sequence[Hit], model: str) -> list[SearchHit]:
        """The hits whose rows say that they may be found: the row is the truth, not the index."""
        images = await self._images.get_many([hit.id for hit in hits])
        return [
            SearchHit(image, hit.score)
            for hit in hits
            if (image := images.get(hit.id)) is not None
            and image.searchable
            and image.embedding is not None
            and image.embedding.model == model
        ]


@dataclass(frozen=True, slots=True)
class _Position:
    """How far an answer was read: the last result's place, score and id.

    Score and id, not the place, decide what comes after, so that images which arrive in between
    neither repeat nor hide a result.
    """

    offset: int = 0
    score: float = float("inf")
    id: UUID = field(default=UUID(int=0))

    def precedes(self, hit: Hit) -> bool:
        return (-hit.score, str(hit.id)) > (-self.score, str(self.id))

    @property
    def text(self) -> str:
        raw = json.dumps([self.offset, self.score, str(self.id)]).encode()
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    @classmethod
    def of(cls, cursor: str | None) -> "_Position":
        if cursor is None:
            return cls()
        try:
            raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
            offset, score, image_id = json.loads(raw)
            position = cls(min(max(int(offset), 0), _MOST_HITS), float(score), UUID(image_id))
            if not math.isfinite(position.score):
                raise ValueError("the score is not finite")
            return position
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InvalidRequest(f"{cursor[:80]!r} is not a cursor that an answer gave.") from error


def _check_weights(examples: Sequence[Example]) -> None:
    for example in examples:
        if not (math.isfinite(example.weight) and example.weight > 0):
            raise InvalidRequest(f"The weight of an example is a number above 0, not {example.weight!r}.")


def _weighted(examples: Sequence[Example], vectors: Mapping[UUID, Vector]) -> NDArray[np.float64]:
    """The mean of the vectors, each times its weight; 0 of none."""
    rows = (example.weight * vectors[example.id].astype(np.float64) for example in examples)
    return np.asarray(sum(rows, np.float64(0.0)) / max(len(examples), 1))


def _why_not_searchable(image: Image) -> str:
    for stage, found in image.features.items():
        if isinstance(found, dict) and found.get("rejected"):
            return f"The stage {stage} rejected the image: {found.get('reason')}"
    return f"The image is {image.state}; it can be searched when it is done."
