"""Walks through the boxes of ISO media files: AVIF and HEIC."""

from __future__ import annotations

import struct
from collections.abc import Iterator

# Boxes of one level.
_MAX_BOXES = 10_000
# Bytes before the boxes in a box: version and flags; iinf has a count, too, of which version 0 has two bytes.
_FIRST = {b"meta": 4, b"iinf": 6}


def walk_boxes(data: bytes, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes between two positions (ISO/IEC 14496-12, 4.2): name, start and end of the content.

    Raises:
        ValueError: a box is shorter than its header.
    """
    for _ in range(_MAX_BOXES):
        if position + 8 > end:
            return
        size, name = struct.unpack_from(">I4s", data, position)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, position + 8)
            header = 16
        elif size == 0:
            size = end - position
        if size < header:
            raise ValueError("a box shorter than its header")
        yield name, position + header, min(end, position + size)
        position += size


def find_boxes(data: bytes, *path: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of the content of every box at `path`, the names from the outermost box inward."""
    yield from _find(data, 0, len(data), path)


def _find(data: bytes, position: int, end: int, path: tuple[bytes, ...]) -> Iterator[tuple[int, int]]:
    if not path:
        yield position, end
        return
    for name, start, stop in walk_boxes(data, position, end):
        if name == path[0]:
            inside = _FIRST.get(name, 0) if len(path) > 1 else 0
            if name == b"iinf" and data[start]:
                inside += 2
            yield from _find(data, start + inside, stop, path[1:])
