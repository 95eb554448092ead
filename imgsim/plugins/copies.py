"""The stage ``copies``: which images of its collection this one is a copy of."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from imgsim import hookimpl
from imgsim.core.copies import LEAST_SCORE, bits_apart, fingerprint_of, first_copies
from imgsim.core.errors import ImageRejected, RetryLater
from imgsim.core.fingerprints import Fingerprint
from imgsim.core.models import Hit, Image, ImageState, OnCopy, SearchFilter
from imgsim.pipeline.stage import Stage, StageContext
from imgsim.plugins.fingerprint import FingerprintStage, KnownFingerprints

log = logging.getLogger("imgsim.copies")

TAG = "copy"
"""What ``on_copy=flag`` adds."""
_NEIGHBOURS = 6
_SECONDS_FOR_THE_YOUNGER = 0.5


class CopiesStage:
    """Compares the fingerprints of the nearest neighbours.

    Without neighbours it costs one query of the vector index; with some, a read of those rows whose fingerprints this
    process does not know, and 0.1 ms of CPU for each; with copies, a write.
    """

    name = "copies"
    after = ("index",)
    quick = True

    def __init__(self, known: KnownFingerprints) -> None:
        self._known = known

    async def run(self, ctx: StageContext) -> dict[str, Any] | None:
        """Copies with their scores and how many bits of PDQ differ, at least one where there are any; else None.

        Raises ``ImageRejected`` for an upload with ``on_copy=reject`` that is one.
        """
        mine = self._known.get(ctx.image.id) or Fingerprint.from_json(ctx.results.get("fingerprint"))
        if mine is None or not (neighbours := await self._neighbours(ctx)):
            return None
        fingerprints = await self._fingerprints(ctx, [hit.id for hit in neighbours])
        copies = await self._copies(ctx, mine, list(fingerprints.items()))
        if not copies:
            return None
        if ctx.image.on_copy is not OnCopy.ACCEPT:
            await self._settle(ctx, copies)
        await ctx.ports.images.note_copies(ctx.image.id, [image.id for image in copies])
        scores = {hit.id: round(hit.score, 4) for hit in neighbours}
        apart = bits_apart(mine, [fingerprints[image.id] for image in copies])
        distances = {image.id: int(bits) for image, bits in zip(copies, apart, strict=True)}
        best = sorted(distances, key=lambda image_id: (-scores[image_id], image_id))
        return {"of": [{"id": str(each), "score": scores[each], "distance": distances[each]} for each in best]}

    async def _copies(
        self, ctx: StageContext, mine: Fingerprint, others: Sequence[tuple[UUID, Fingerprint]]
    ) -> Sequence[Image]:
        """Of `others`, nearest first, up to one that stays: it joins the image to its group."""
        there: list[Image] = []
        while others and (found := await ctx.compute(first_copies, mine, [fingerprint for _, fingerprint in others])):
            # The rows say which of them are still there, and were not rejected.
            images = await ctx.ports.images.get_many([others[place][0] for place in found])
            there += [image for image in images.values() if image.searchable or image.state is not ImageState.DONE]
            if any(_stays(image, ctx.image) for image in there):
                break
            others = [other for place, other in enumerate(others) if place not in found]
        return there

    async def _fingerprints(self, ctx: StageContext, ids: Sequence[UUID]) -> Mapping[UUID, Fingerprint]:
        """Of those that have one, in the order of `ids`."""
        found = {image_id: self._known.get(image_id) for image_id in ids}
        missing = [image_id for image_id in ids if found[image_id] is None]
        if missing:
            for image in (await ctx.ports.images.get_many(missing)).values():
                if fingerprint := fingerprint_of(image):
                    found[image.id] = fingerprint
                    self._known.put(image.id, fingerprint)
        return {image_id: fingerprint for image_id, fingerprint in found.items() if fingerprint}

    async def _neighbours(self, ctx: StageContext) -> Sequence[Hit]:
        if ctx.embedding is None:
            return []
        model, where = ctx.ports.embedder.model_id, SearchFilter(ctx.image.collection)
        hits = await ctx.ports.vectors.query(model, ctx.embedding, _NEIGHBOURS + 1, where, LEAST_SCORE)
        return [hit for hit in hits if hit.id != ctx.image.id]

    async def _settle(self, ctx: StageContext, copies: Sequence[Image]) -> None:
        """Flag or reject what is a copy of an image that stays.

        Of two that come in at once the older stays. It waits for the younger to be done, which may have looked before
        the older was there to be found; the younger never waits, so neither does so for ever.
        """
        originals = [image for image in copies if _stays(image, ctx.image)]
        about_to_be_done = [image for image in copies if image.state is ImageState.INDEXING]
        if originals:
            oldest = min(originals, key=lambda image: image.id)
            if ctx.image.on_copy is OnCopy.REJECT:
                raise ImageRejected(f"It is a copy of the image {oldest.id} (on_copy=reject).")
            await self._flag(ctx)
        elif about_to_be_done:
            raise RetryLater(f"A copy is on its way, too: {about_to_be_done[0].id}.", _SECONDS_FOR_THE_YOUNGER)

    async def _flag(self, ctx: StageContext) -> None:
        # The runner writes tags that have changed to the index.
        image = await ctx.ports.images.add_tag(ctx.image.id, TAG)
        if TAG not in image.tags:
            log.warning("image %s is a copy, but has no room for the tag %r: it has %d", image.id, TAG, len(image.tags))


def _stays(image: Image, beside: Image) -> bool:
    """Whether `image` is an original for `beside`: of two that come in at once the older is, unless it has failed
    already, and may fail for good; to have waited is no failure. What was flagged as a copy of `beside` is none."""
    if image.searchable:
        return not (image.on_copy is OnCopy.FLAG and _names(image, beside))
    failed = image.error is not None and image.error.type != RetryLater.code
    return image.id < beside.id and not image.at_rest and not failed


def _names(image: Image, other: Image) -> bool:
    """Whether `other` is among the copies that were found for `image`."""
    return any(copy["id"] == str(other.id) for copy in image.features.get("copies", {}).get("of", []))


@hookimpl
def imgsim_stages(settings: Any) -> Sequence[Stage]:
    known = KnownFingerprints()
    return [FingerprintStage(known), CopiesStage(known)]
