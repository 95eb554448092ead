"""The parameters by which images are chosen, the same in lists and searches."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from litestar.params import QueryParameter

from imgsim.core.filters import parse_metadata, parse_time
from imgsim.core.models import Scalar, SearchFilter

Tags = Annotated[
    list[str] | None, QueryParameter(name="tag", description="Only those with this tag; repeat it: all must match.")
]
AnyTags = Annotated[
    list[str] | None, QueryParameter(name="any_tag", description="Only those with this tag; repeat it: one must match.")
]
NotTags = Annotated[
    list[str] | None, QueryParameter(name="not_tag", description="Only those without this tag; may repeat.")
]
CreatedFrom = Annotated[
    str | None, QueryParameter(description="Stored at this date or date-time (RFC 3339) or later.")
]
CreatedTo = Annotated[str | None, QueryParameter(description="Stored before this date or date-time (RFC 3339).")]
Metadata = Annotated[
    list[str] | None,
    QueryParameter(
        description="`key=value`: only those whose metadata has this value on its top level; the value is JSON "
        "(a number, true, false, null, a quoted text) or else a text. Repeat it: all must match."
    ),
]


def search_filter(
    *,
    collection: str | None = None,
    tag: Sequence[str] | None = None,
    any_tag: Sequence[str] | None = None,
    not_tag: Sequence[str] | None = None,
    created_from: str | None = None,
    created_to: str | None = None,
    metadata: Sequence[str] | Mapping[str, Scalar] | None = None,
) -> SearchFilter:
    """The filter that these parameters describe. ``InvalidRequest``."""
    return SearchFilter(
        collection,
        tag or (),
        any_tag or (),
        not_tag or (),
        parse_time(created_from, "created_from") if created_from is not None else None,
        parse_time(created_to, "created_to") if created_to is not None else None,
        metadata if isinstance(metadata, Mapping) else parse_metadata(metadata or ()),
    )
