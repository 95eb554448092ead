"""The packaged model finds what people would call alike: measured through POST /encode on labelled photographs."""

from pathlib import Path

import numpy as np

from tests.benchmarks.encode_folder import encode, groups
from tests.processes import ImgsimServer


def test_the_five_nearest_are_mostly_of_the_same_class(server: ImgsimServer, photos: list[Path]) -> None:
    labelled = [photo for photo in photos if "classes" in photo.parts]
    labels = np.array([photo.parent.name for photo in labelled])
    with server.client() as client:
        vectors = np.concatenate([encode(client, group) for group in groups(labelled)])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -2)
    nearest = np.argsort(-scores, axis=1)[:, :5]
    precision = float((labels[nearest] == labels[:, None]).mean())
    assert precision >= 0.95, precision  # .983 when measured
