"""What a fingerprint says, and what it survives."""

import json
import zlib
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgsim.adapters.images import read_image
from imgsim.core.copies import MOST_BITS, bits_apart, copies_among, first_copies
from imgsim.core.fingerprints import Fingerprint
from imgsim.core.models import Picture
from imgsim.fingerprints import take_fingerprint
from tests.conftest import DATA

REFERENCE = {  # hashes by the library pdqhash 0.2.8 (ThreatExchange's C++), of the pictures at full size
    "neardup/clothing_dress_f1e76eb5-13a9-4782-b1eb-.jpg":
        "a5a63c083898f69666806c68d879a5b645b6092fec7d24b686df5a6f4a69e09f",
    "neardup/clothing_longsleeve_066d2e84-6701-4bc7-a301-.jpg":
        "523f8b8a22bf031c624cc7286bcfa3752fcfc122c7c1f007fde883e778a816e2",
    "neardup/clothing_shoes_43b4bd38-ab47-4ebf-8862-.jpg":
        "96e3c9c35c8c3d9b6190e13c86399eb33a6cf03a25c36de7d91edc9826e42266",
    "classes/daisy/flickr_1150395827_6f94a5c6e4_n.jpg":
        "88257c18c3930f8b68f8db9ccecff1f849f8ec6639448c723326b09f8e1e630e",
    "classes/daisy/flickr_14402451388_56545a374a_n.jpg":
        "923d832d11e7780c0e734fe1e4200dbf21e684db9e5a864d72373d7bb8fab182",
    "classes/milk/grocery_milk_00.jpg":
        "f5714651a47be270eb2fe6b6b560e5e442dac52ea0525bac5f065c1a2fa60b89",
}  # fmt: skip


def picture_of(path: Path) -> Picture:
    found = read_image(path.read_bytes(), 10**8, 448)
    assert found is not None
    return found.picture


def taken(picture: Picture) -> Fingerprint:
    fingerprint = take_fingerprint(picture)
    assert fingerprint is not None
    return fingerprint


@pytest.mark.parametrize(("name", "reference"), REFERENCE.items())
def test_the_hash_is_pdq_within_a_few_bits(name: str, reference: str) -> None:
    fingerprint = taken(picture_of(DATA / name)).to_json()
    assert (int(fingerprint["pdq"], 16) ^ int(reference, 16)).bit_count() <= 24  # 31 is PDQ's own limit for a match
    assert fingerprint["quality"] == 100


def test_it_comes_back_from_json_as_it_was(photos: list[Path]) -> None:
    fingerprint = taken(picture_of(photos[0]))
    stored = json.dumps(fingerprint.to_json())
    back = Fingerprint.from_json(json.loads(stored))
    assert back is not None
    assert (back.pdq == fingerprint.pdq).all()
    assert (back.coefficients == fingerprint.coefficients).all()
    assert (back.quality, back.aspect) == (fingerprint.quality, fingerprint.aspect)


def test_it_is_short(photos: list[Path]) -> None:
    sizes = [len(json.dumps(taken(picture_of(path)).to_json())) for path in photos[::7]]
    assert np.median(sizes) < 1100
    noise = np.random.default_rng(1).integers(0, 256, (600, 800, 3), np.uint8)
    assert len(json.dumps(taken(noise).to_json())) < 5500


@pytest.mark.parametrize("size", [(1, 1), (300, 2), (480, 640)])
def test_plain_areas_have_none(size: tuple[int, int]) -> None:
    assert take_fingerprint(np.full((*size, 3), 200, np.uint8)) is None


def test_what_it_did_not_make_is_none(photos: list[Path]) -> None:
    good = taken(picture_of(photos[0])).to_json()
    bomb = b64encode(zlib.compress(bytes(10_000_000))).decode()
    wrong: list[Any] = [None, 7, "x", [], {}, *({**good, key: None} for key in good)]
    wrong += [{**good, "detail": bomb}, {**good, "detail": "x"}, {**good, "detail": good["detail"][:-9]}]
    wrong += [{**good, "pdq": "00"}, {**good, "pdq": "zz" * 32}, {**good, "aspect": 0}, {**good, "aspect": "nan"}]
    for value in wrong:
        assert Fingerprint.from_json(value) is None, value


def test_a_picture_in_any_of_eight_orientations_is_a_copy(photos: list[Path]) -> None:
    picture = picture_of(photos[40])
    fingerprint = taken(picture)
    for turns in range(4):
        for turned in (np.rot90(picture, turns), np.rot90(picture[:, ::-1], turns)):
            other = taken(np.ascontiguousarray(turned))
            assert bits_apart(fingerprint, [other])[0] <= 30
            assert copies_among(fingerprint, [other]) == [True]


def test_a_picture_without_a_fingerprint_is_no_copy(photos: list[Path]) -> None:
    fingerprint = taken(picture_of(photos[0]))
    assert copies_among(None, [fingerprint, None]) == [False, False]
    assert copies_among(fingerprint, [None, fingerprint, None]) == [False, True, False]
    assert copies_among(fingerprint, []) == []


def test_gradients_and_noise_are_no_copies_of_each_other() -> None:
    chance = np.random.default_rng(7)
    slopes = [np.linspace(0, 255, 64), np.linspace(0, 255, 64) ** 2 / 255]
    skies = [np.repeat(np.repeat(slope[:, None, None], 8, 0), 400, 1).repeat(3, 2).astype(np.uint8) for slope in slopes]
    noise = [chance.integers(0, 256, (300, 400, 3), np.uint8) for _ in range(4)]
    for pictures in (skies, noise):
        first, *rest = [taken(picture) for picture in pictures]
        assert copies_among(first, rest) == [False] * len(rest)


def test_the_first_copies_are_those_that_cost_least_to_tell(photos: list[Path]) -> None:
    picture = picture_of(photos[40])
    height, width, _ = picture.shape
    fingerprint, half = taken(picture), taken(np.ascontiguousarray(picture[::2, ::2]))
    cut = taken(np.ascontiguousarray(picture[height // 10 :, width // 10 :]))
    another, third = (taken(picture_of(photos[place])) for place in (0, 20))
    assert bits_apart(fingerprint, [cut])[0] > MOST_BITS  # told by laying one over the other alone
    assert first_copies(fingerprint, [cut, another, half]) == [2]
    assert first_copies(fingerprint, [another, cut, cut]) == [1]
    assert first_copies(fingerprint, [another, third, cut]) == [2]
    assert first_copies(fingerprint, [another, third]) == []
    assert first_copies(fingerprint, []) == []
