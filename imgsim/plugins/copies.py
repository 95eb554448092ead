"""The stage ``copies``: which images of its collection this one is a copy of."""

import asyncio
from collections.abc import Sequence
from typing import Any

from imgsim import hookimpl
from imgsim.core.copies import bits_apart, copies_among, fingerprint_of
from imgsim.core.errors import ImageRejected, RetryLater
from imgsim.core.fingerprints import Fingerprint
from imgsim.core.models import Hit, Image, ImageState, OnCopy, SearchFilter
from imgsim.pipeline.stage import Stage, StageContext

TAG = "copy"
"""What ``on_copy=flag`` adds."""
_NEIGHBOURS = 10
_LEAST_SCORE = 0.65
"""Of the packaged model, 1 copy of 200 is less like its original. Other models give higher scores."""
_SECONDS_FOR_THE_YOUNGER = 0.5


class CopiesStage:
    """Compares the fingerprints of the nearest neighbours. Without any, it costs one query of the vector index."""

    name = "copies"
    after = ("index",)
    quick = True

    async def run(self, ctx: StageContext) -> dict[str, Any] | None:
        """The copies with their scores and how many bits of PDQ differ; None where there are none.

        Raises ``ImageRejected`` for an upload with ``on_copy=reject`` that is one.
        """
        fingerprint = Fingerprint.from_json(ctx.results.get("fingerprint"))
        neighbours = await self._neighbours(ctx) if fingerprint else []
        if fingerprint is None or not neighbours:
            return None
        images = await ctx.ports.images.get_many([hit.id for hit in neighbours])
        candidates = [images[hit.id] for hit in neighbours if hit.id in images]
        copies = await asyncio.to_thread(_copies, fingerprint, candidates)
        if not copies:
            return None
        if ctx.image.on_copy is not OnCopy.ACCEPT:
            await self._settle(ctx, [image for image in candidates if image.id in copies])
        await ctx.ports.images.note_copies(ctx.image.id, list(copies))
        found = [hit for hit in neighbours if hit.id in copies]
        return {"of": [{"id": str(hit.id), "score": round(hit.score, 4), "distance": copies[hit.id]} for hit in found]}

    async def _neighbours(self, ctx: StageContext) -> Sequence[Hit]:
        if ctx.embedding is None:
            return []
        model, where = ctx.ports.embedder.model_id, SearchFilter(ctx.image.collection)
        hits = await ctx.ports.vectors.query(model, ctx.embedding, _NEIGHBOURS + 1, where, _LEAST_SCORE)
        return [hit for hit in hits if hit.id != ctx.image.id]

    async def _settle(self, ctx: StageContext, copies: Sequence[Image]) -> None:
        """Flag or reject what is a copy of an image that stays.

        Of two that come in at once the older stays. It waits for the younger to be done, which may have looked before
        the older was there to be found; the younger never waits, so neither does so for ever.
        """
        on_its_way = [image for image in copies if image.state is ImageState.INDEXING]
        originals = [image for image in copies if image.searchable]
        originals += [image for image in on_its_way if image.id < ctx.image.id]
        if originals:
            oldest = min(originals, key=lambda image: image.id)
            if ctx.image.on_copy is OnCopy.REJECT:
                raise ImageRejected(f"It is a copy of the image {oldest.id} (on_copy=reject).")
            await self._flag(ctx)
        elif on_its_way:
            raise RetryLater(f"A copy is on its way, too: {on_its_way[0].id}.", _SECONDS_FOR_THE_YOUNGER)

    async def _flag(self, ctx: StageContext) -> None:
        # The runner writes tags that have changed to the index.
        image = await ctx.ports.images.get(ctx.image.id)
        if TAG not in image.tags:
            await ctx.ports.images.update(image.id, tags=[*image.tags, TAG])


def _copies(fingerprint: Fingerprint, images: Sequence[Image]) -> dict[Any, int]:
    """The ids of those that are copies, in a thread, with the bits of PDQ that differ. Rejected ones are not."""
    others = [
        None if image.state is ImageState.DONE and not image.searchable else fingerprint_of(image) for image in images
    ]
    return {
        image.id: int(bits_apart(fingerprint, [other])[0])
        for image, other, is_copy in zip(images, others, copies_among(fingerprint, others), strict=True)
        if is_copy and other is not None
    }


@hookimpl
def imgsim_stages(settings: Any) -> Sequence[Stage]:
    return [CopiesStage()]
