"""What every embedder promises, whatever computes: valid pictures in, rows of unit length out."""

from collections.abc import Sequence

import numpy as np

from imgsim.core.errors import EmbeddingFailed, TextNotSupported
from imgsim.core.models import Picture, Vectors


def check_pictures(pictures: Sequence[Picture]) -> None:
    """``EmbeddingFailed`` unless each is ``(height, width, 3)`` uint8 with at least one pixel."""
    for picture in pictures:
        shape, dtype = getattr(picture, "shape", None), getattr(picture, "dtype", None)
        if shape is None or len(shape) != 3 or shape[2] != 3 or not (shape[0] and shape[1]) or dtype != np.uint8:
            found = f"an array of {dtype} and shape {shape}" if shape is not None else f"a {type(picture).__name__}"
            raise EmbeddingFailed(f"A picture must be (height, width, 3) uint8 with at least one pixel; got {found}.")


def unit_rows(rows: Vectors, model_id: str) -> Vectors:
    """`rows`, ``(n, dimensions)``, scaled to unit length, float32.

    ``EmbeddingFailed`` when a row is zero or not finite: it has no direction to compare.
    """
    rows = np.asarray(rows, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise EmbeddingFailed(f"The model {model_id} gave a vector that is zero or not finite.")
    units: Vectors = rows / lengths
    return units


def text_not_supported(model_id: str, reason: str = "has no text side") -> TextNotSupported:
    return TextNotSupported(
        f"The model {model_id} {reason}, so it cannot search by text. open_clip models can: "
        "set embedder.model to one, such as ViT-B-32/laion2b_s34b_b79k."
    )
