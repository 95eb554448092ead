"""Calls that compare images."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from typing import Any, Unpack

import msgspec
import numpy as np

from imgsim.client.caller import Caller, path_of
from imgsim.client.connection import Answer, Call
from imgsim.client.errors import local_error
from imgsim.client.models import Encoded, Example, Id, SearchFilters
from imgsim.client.parameters import as_examples, as_form, as_query, given
from imgsim.client.sources import Source, name_of, opened
from imgsim.core.errors import InvalidRequest
from imgsim.core.models import DuplicateGroup, DuplicatePage, SearchAnswer

_MOST_ENCODED = 64
_RAW = {"Accept": "application/octet-stream"}


class _CollectionList(msgspec.Struct):
    collections: list[str]


class SearchCalls(Caller):
    async def similar(
        self,
        image_id: Id,
        *,
        limit: int = 10,
        min_score: float | None = None,
        exact: bool | None = None,
        cursor: str | None = None,
        **filters: Unpack[SearchFilters],
    ) -> SearchAnswer:
        """What looks like this image, in its collection, best first; `cursor` is ``next_cursor`` of a page before."""
        query = as_query(given(limit=limit, min_score=min_score, exact=exact, cursor=cursor, **filters))
        answer = await self._connection.call(Call("GET", f"{path_of(image_id)}/similar", params=query))
        return answer.decode(SearchAnswer)

    async def search(
        self,
        image: Source | None = None,
        *,
        text: str | None = None,
        url: str | None = None,
        positive: Sequence[Id | Example] = (),
        negative: Sequence[Id | Example] = (),
        collection: str | None = None,
        limit: int = 10,
        min_score: float | None = None,
        exact: bool | None = None,
        cursor: str | None = None,
        **filters: Unpack[SearchFilters],
    ) -> SearchAnswer:
        """Search by an image that is not stored, by a text, by the image at a URL, or by examples; one of them."""
        values = given(
            text=text,
            url=url,
            positive=as_examples(positive),
            negative=as_examples(negative),
            collection=collection,
            limit=limit,
            min_score=min_score,
            exact=exact,
            cursor=cursor,
            **filters,
        )
        if image is None:
            return (await self._connection.call(Call("POST", "/search", json=values))).decode(SearchAnswer)
        with ExitStack() as stack:
            files = [("file", (name_of(image), await self._exchange.call(opened, image, stack)))]
            answer = await self._connection.call(Call("POST", "/search", data=as_form(values), files=files))
        return answer.decode(SearchAnswer)

    async def encode(
        self, images: Sequence[Source] = (), *, texts: Sequence[str] = (), urls: Sequence[str] = ()
    ) -> Encoded:
        """The embeddings of images, texts or what is at URLs (one of them), 64 in a request."""
        kinds: dict[str, Sequence[Any]] = {"file": images, "text": texts, "url": urls}
        chosen = [name for name, several in kinds.items() if len(several)]
        if len(chosen) != 1:
            raise local_error(InvalidRequest, "Encode images, texts or URLs: one of them, and at least one.")
        (kind,) = chosen
        groups = []
        for start in range(0, len(kinds[kind]), _MOST_ENCODED):
            some = kinds[kind][start : start + _MOST_ENCODED]
            with ExitStack() as stack:
                if kind == "file":
                    files = [("file", (name_of(each), await self._exchange.call(opened, each, stack))) for each in some]
                    call = Call("POST", "/encode", files=files, headers=_RAW)
                else:
                    call = Call("POST", "/encode", json={kind: list(some)}, headers=_RAW)
                groups.append(_vectors(await self._connection.call(call)))
        return Encoded(groups[0].model, np.concatenate([group.vectors for group in groups]))

    async def duplicates(self, *, collection: str | None = None) -> AsyncGenerator[DuplicateGroup, None]:
        """Groups of identical and copied images, fetched page by page."""
        async with aclosing(self._pages("/duplicates", given(collection=collection), DuplicatePage)) as pages:
            async for page in pages:
                for group in page.groups:
                    yield group

    async def dismiss(self, group_id: Id, images: Sequence[Id] | None = None) -> None:
        """The images of this group are no duplicates, and never come into one again; with `images`, 2 to 100, only
        these: give those that you have seen, as others may have joined since. ``GroupNotFound``."""
        seen = None if images is None else {"images": [str(image) for image in images]}
        await self._remove(Call("POST", f"{path_of(group_id, 'duplicates')}/dismiss", json=seen))

    async def collections(self) -> Sequence[str]:
        """The names of those that have images, sorted."""
        return (await self._connection.call(Call("GET", "/collections"))).decode(_CollectionList).collections


def _vectors(answer: Answer) -> Encoded:
    headers = answer.response.headers
    rows = np.frombuffer(answer.response.content, "<f4").astype(np.float32)
    return Encoded(headers["X-Imgsim-Model"], rows.reshape(-1, int(headers["X-Imgsim-Dimensions"])))
