"""Groups of duplicates, page by page."""

from collections.abc import Sequence
from uuid import UUID

from imgsim.core.errors import InvalidRequest
from imgsim.core.models import DuplicateGroup, DuplicatePage, Match
from imgsim.core.ports import ImageRepository
from imgsim.core.services.ingest import valid_sha256

_COPIES, _IDENTICAL = "copy-", "identical-"


class DuplicatesService:
    def __init__(self, *, images: ImageRepository) -> None:
        self._images = images

    async def page(self, limit: int, collection: str | None = None, cursor: str | None = None) -> DuplicatePage:
        """At most `limit` groups: copies, which lie in one collection, then, where none is given, identical bytes in
        several. ``InvalidRequest`` (cursor)."""
        group_id, digest = _position(cursor)
        groups: list[DuplicateGroup] = []
        if digest is None:
            groups += await self._images.copy_groups(limit + 1, collection, group_id)
        if collection is None and len(groups) <= limit:
            groups += await self._images.identical_groups(limit + 1 - len(groups), digest or "")
        page = groups[:limit]
        return DuplicatePage(page, _cursor(page[-1]) if len(groups) > limit else None)

    async def dismiss(self, group_id: UUID, images: Sequence[UUID] | None = None) -> None:
        """Mark the images of the group, with `images` these of it, as no duplicates of each other; see
        ``ImageRepository.dismiss_group``. ``GroupNotFound``."""
        await self._images.dismiss_group(group_id, images)


def _cursor(last: DuplicateGroup) -> str:
    if last.match is Match.COPY:
        return f"{_COPIES}{last.id}"
    return f"{_IDENTICAL}{last.images[0].sha256}"


def _position(cursor: str | None) -> tuple[UUID | None, str | None]:
    """The group of copies, or the digest, after which to go on."""
    if cursor is None:
        return None, None
    try:
        if cursor.startswith(_COPIES):
            return UUID(cursor.removeprefix(_COPIES)), None
        if cursor.startswith(_IDENTICAL):
            return None, valid_sha256(cursor.removeprefix(_IDENTICAL))
        raise ValueError("it begins like none")
    except (ValueError, InvalidRequest) as error:
        raise InvalidRequest(f"{cursor[:80]!r} is not a cursor that an answer gave.") from error
