"""The parameters by which images are chosen, the same in lists and searches."""

from typing import Annotated

from litestar.params import QueryParameter

Tags = Annotated[
    list[str] | None, QueryParameter(name="tag", description="Only those with this tag; repeat it: all must match.")
]
AnyTags = Annotated[
    list[str] | None, QueryParameter(name="any_tag", description="Only those with this tag; repeat it: one must match.")
]
NotTags = Annotated[
    list[str] | None, QueryParameter(name="not_tag", description="Only those without this tag; may repeat.")
]
CreatedFrom = Annotated[str | None, QueryParameter(description="Stored at this date or date-time (RFC 3339) or later.")]
CreatedTo = Annotated[str | None, QueryParameter(description="Stored before this date or date-time (RFC 3339).")]
Metadata = Annotated[
    list[str] | None,
    QueryParameter(
        description="`key=value`: only those whose metadata has this value on its top level; the value is JSON "
        "(a number, true, false, null, a quoted text) or else a text. Repeat it: all must match."
    ),
]
