"""Groups of duplicates on dicts."""

from collections.abc import Iterable, Sequence
from uuid import UUID, uuid4

from imgsim.core.errors import GroupNotFound
from imgsim.core.models import CopyNote, DuplicateGroup, Image, Match, identical_group_id

_MOST_IMAGES = 100


class MemoryDuplicates:
    """Which images are copies of each other, and which somebody has said are none."""

    def __init__(self) -> None:
        self._group_of: dict[UUID, UUID] = {}
        self._dismissals: dict[UUID, set[UUID]] = {}

    def join(self, image_id: UUID, other: UUID) -> None:
        groups = {self._group_of.setdefault(each, each) for each in (image_id, other)}
        members = [member for member, group in self._group_of.items() if group in groups]
        dismissals = [dismissal for member in members for dismissal in self._dismissals.get(member, ())]
        if len(set(dismissals)) == len(dismissals):
            self._group_of |= dict.fromkeys(members, min(groups))

    def copies(self, images: Iterable[Image]) -> list[DuplicateGroup]:
        """Of these `images`, oldest first, by ascending id of the group."""
        groups: dict[UUID, list[Image]] = {}
        for image in images:
            if image.id in self._group_of:
                groups.setdefault(self._group_of[image.id], []).append(image)
        return [
            DuplicateGroup(group_id, Match.COPY, groups[group_id][:_MOST_IMAGES])
            for group_id in sorted(groups)
            if len(groups[group_id]) > 1
        ]

    def identical(self, images: Iterable[Image]) -> list[DuplicateGroup]:
        """Of these `images`, oldest first, by ascending digest."""
        groups: dict[str, list[Image]] = {}
        for image in images:
            group = groups.setdefault(image.sha256, [])
            if not any(self._dismissed(image.id, other.id) for other in group):
                group.append(image)
        return [
            DuplicateGroup(identical_group_id(sha256), Match.IDENTICAL, groups[sha256][:_MOST_IMAGES])
            for sha256 in sorted(groups)
            if len(groups[sha256]) > 1
        ]

    def _dismissed(self, one: UUID, other: UUID) -> bool:
        return bool(self._dismissals.get(one, set()) & self._dismissals.get(other, set()))

    def dismiss(self, group_id: UUID, images: Sequence[Image], named: Sequence[UUID] | None) -> None:
        """`images`: those that can be searched."""
        copies = {image_id for image_id, group in self._group_of.items() if group == group_id}
        identical = {image.id for image in images if identical_group_id(image.sha256) == group_id}
        chosen = copies | identical if named is None else {image.id for image in images} & {*named}
        for members in (copies, identical):
            if len(dismissed := sorted(members & chosen)) > 1:
                break
        else:
            raise GroupNotFound(f"No group {group_id} of duplicates has two of these images.")
        dismissal = uuid4()
        for image_id in dismissed:
            self._dismissals.setdefault(image_id, set()).add(dismissal)
        if members is copies:
            for image_id in dismissed if copies <= chosen else dismissed[1:]:
                del self._group_of[image_id]

    def note(self, image_id: UUID) -> CopyNote | None:
        group, dismissals = self._group_of.get(image_id), self._dismissals.get(image_id, set())
        return CopyNote(image_id, group, frozenset(dismissals)) if group or dismissals else None

    def keep(self, note: CopyNote) -> None:
        if note.group:
            self._group_of[note.image_id] = note.group
        else:
            self._group_of.pop(note.image_id, None)
        if note.dismissals:
            self._dismissals.setdefault(note.image_id, set()).update(note.dismissals)

    def forget(self, image_id: UUID) -> None:
        self._group_of.pop(image_id, None)
        self._dismissals.pop(image_id, None)
