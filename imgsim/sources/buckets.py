"""What lies in a bucket below a prefix."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from imgsim.sources.places import allowed, item_at
from imgsim.sources.source import Item, Reach


class BucketSource:
    """The images whose keys begin as `url` says; other objects are passed over."""

    def __init__(self, url: str, reach: Reach) -> None:
        self.label = url
        self._reach = reach

    async def items(self) -> AsyncGenerator[Item, None]:
        async with aclosing(self._reach.buckets.list(allowed(self.label, self._reach))) as urls:
            async for url in urls:
                place = url.partition("?")[0] if self._reach.s3 is not None else url
                yield item_at(place, None, self._reach, must_be=False)

    def count(self) -> int | None:
        return None
