"""Answers as people and programs get them."""

from dataclasses import replace
from typing import Any

from imgsim.core.models import DuplicatePage, Image, ImagePage, SearchAnswer


def shown(answer: Any) -> Any:
    """`answer`, its images without ``features.fingerprint.detail``: 1 kB of each that only the comparison needs.

    What is no answer with images comes back as it is.
    """
    match answer:
        case Image():
            return _shown(answer)
        case ImagePage():
            return replace(answer, images=[_shown(image) for image in answer.images])
        case SearchAnswer():
            return replace(answer, results=[replace(hit, image=_shown(hit.image)) for hit in answer.results])
        case DuplicatePage():
            groups = [replace(group, images=[_shown(image) for image in group.images]) for group in answer.groups]
            return replace(answer, groups=groups)
    return answer


def _shown(image: Image) -> Image:
    found = image.features.get("fingerprint")
    if not isinstance(found, dict) or not {"pdq", "detail"} <= found.keys():  # perhaps another plugin's
        return image
    rest = {key: value for key, value in found.items() if key != "detail"}
    return replace(image, features={**image.features, "fingerprint": rest})
