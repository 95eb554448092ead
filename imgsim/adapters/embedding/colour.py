"""An embedder without a model, for tests: deterministic, instant, and close colours are close."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np

from imgsim.adapters.embedding.checks import check_pictures, text_not_supported, unit_rows
from imgsim.core.models import Picture, Vector, Vectors


class ColourEmbedder:
    """Which colours are where: a histogram of 4 x 4 x 4 RGB bins for each quarter of the picture."""

    model_id = "colour-histogram@1"
    preprocessing = "stride-64@1"
    dimensions = 256
    input_size = 64
    supports_text = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""

    async def ping(self) -> None:
        """Always there."""

    async def embed_images(self, pictures: Sequence[Picture], urgent: bool = False) -> Vectors:
        check_pictures(pictures)
        if not pictures:
            return np.empty((0, self.dimensions), np.float32)
        return unit_rows(np.stack([_histogram(picture) for picture in pictures]), self.model_id)

    async def embed_texts(self, texts: Sequence[str]) -> Vectors:
        raise text_not_supported(self.model_id)


def _histogram(picture: Picture) -> Vector:
    """``(256,)`` float32: the share of each quarter's pixels in each bin; quarters in reading order."""
    step = max(1, max(picture.shape[:2]) // ColourEmbedder.input_size)  # some thousand pixels are enough
    bins = picture[::step, ::step].astype(np.intp) >> 6
    index = bins[..., 0] * 16 + bins[..., 1] * 4 + bins[..., 2]
    quarters = [quarter for half in np.array_split(index, 2) for quarter in np.array_split(half, 2, axis=1)]
    counts = [np.bincount(quarter.ravel(), minlength=64) / max(1, quarter.size) for quarter in quarters]
    return np.concatenate(counts).astype(np.float32)
