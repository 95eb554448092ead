"""The stage ``fingerprint``: what copies of the picture are known by."""

import asyncio
from collections.abc import Sequence
from typing import Any

from imgsim import hookimpl
from imgsim.fingerprints import take_fingerprint
from imgsim.pipeline.stage import Stage, StageContext


class FingerprintStage:
    """Before ``index``, with which the row gets what this stage found: whoever finds an image's vector can then
    compare its fingerprint, so that of two copies that come in at once one finds the other."""

    name = "fingerprint"
    after = ("embed",)
    before = ("index",)
    quick = True

    async def run(self, ctx: StageContext) -> dict[str, Any] | None:
        """PDQ hash (hexadecimal), its quality, width by height, and ``detail``: grey levels, for the comparison only.

        None for a plain area.
        """
        picture = await ctx.picture()

        def take() -> dict[str, Any] | None:
            fingerprint = take_fingerprint(picture)
            return fingerprint.to_json() if fingerprint else None

        return await asyncio.to_thread(take)


@hookimpl
def imgsim_stages(settings: Any) -> Sequence[Stage]:
    return [FingerprintStage()]
