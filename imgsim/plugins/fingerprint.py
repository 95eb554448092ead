"""The stage ``fingerprint``: what copies of the picture are known by. It comes with the plugin ``copies``."""

from collections import OrderedDict
from typing import Any
from uuid import UUID

from imgsim.core.fingerprints import Fingerprint
from imgsim.fingerprints import take_fingerprint
from imgsim.pipeline.stage import StageContext

_MOST_KNOWN = 2048


class KnownFingerprints:
    """The latest of this process, by image: 5 kB each. An image keeps its own for life."""

    def __init__(self) -> None:
        self._known: OrderedDict[UUID, Fingerprint] = OrderedDict()

    def get(self, image_id: UUID) -> Fingerprint | None:
        return self._known.get(image_id)

    def put(self, image_id: UUID, fingerprint: Fingerprint) -> None:
        self._known[image_id] = fingerprint
        self._known.move_to_end(image_id)
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)


class FingerprintStage:
    """Before ``index``, with which the row gets what this stage found: whoever finds an image's vector can then
    compare its fingerprint, so that of two copies that come in at once one finds the other."""

    name = "fingerprint"
    after = ("embed",)
    before = ("index",)
    quick = True

    def __init__(self, known: KnownFingerprints) -> None:
        self._known = known

    async def run(self, ctx: StageContext) -> dict[str, Any] | None:
        """PDQ hash (hexadecimal), its quality, width by height, and ``detail``: grey levels, for the comparison
        only, which no answer shows.

        None for a plain area.
        """
        picture = await ctx.picture()

        def take() -> tuple[Fingerprint, dict[str, Any]] | None:
            fingerprint = take_fingerprint(picture)
            return (fingerprint, fingerprint.to_json()) if fingerprint else None

        found = await ctx.compute(take)
        if found is None:
            return None
        fingerprint, as_json = found
        self._known.put(ctx.image.id, fingerprint)
        return as_json
