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
        whole = allowed(self.label, self._reach)
        added = whole[len(self.label) :]  # the endpoint of the setting, which is no client's business
        async with aclosing(self._reach.buckets.list(whole)) as urls:
            async for url in urls:
                yield item_at(url.removesuffix(added), None, self._reach, must_be=False)

    def count(self) -> int | None:
        return None
