"""A bucket of millions of objects that have no bytes: its names are computed when they are listed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import islice
from typing import Any, overload

from clip_embeddings.storage.types import PAGE_SIZE, NameRange
from tests.support.gcs_server import GcsServer


class ManyNames(Sequence[str]):
    """`size` names in order, most of them close together, as those of real buckets are."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self.size))]
        if not 0 <= index < self.size:
            raise IndexError
        place = index / self.size
        if place < 0.001:
            return f"0/{index:06}"
        if place < 0.55:
            day = int((place - 0.001) / 0.549 * 1000) % 1000
            return f"photos/{2020 + day // 372}/{day // 31 % 12 + 1:02}/{day % 31 + 1:02}/IMG_{index:010}.jpg"
        if place < 0.9:
            return f"uploads/{int(place * 2**48):012x}-{index:010}.png"
        if place < 0.99:
            return f"v/user-{index // 700:07}/{index:010}/original.webp"
        return f"ünï/çødé {index:010}.avif"


class ManyNamesServer(GcsServer):
    """Cloud Storage with one bucket of many names, in pages as large as the real one's."""

    page_size = PAGE_SIZE

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names

    def items(self, prefix: str, within: NameRange, last: str, most: int) -> list[dict[str, Any]]:
        """See GcsServer."""
        first = bisect_left(self.names, max(prefix, within.start, f"{last}\0" if last else ""))
        end = len(self.names) if within.end is None else bisect_left(self.names, within.end)
        page = (self.names[index] for index in range(first, min(end, first + most)))
        return [
            {
                "name": name,
                "generation": "1",
                "size": "1000",
                "contentType": "image/jpeg",
                "updated": "2026-01-01T00:00:00Z",
                "metadata": {},
            }
            for name in islice(page, most)
            if name.startswith(prefix)
        ]

    def listings(self) -> int:
        """The number of listings so far."""
        return sum(method == "GET" and "/o?" in path for method, path in self.requests)
