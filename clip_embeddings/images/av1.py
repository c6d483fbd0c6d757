"""Finds out how large the frames of an AVIF really are.

libavif scales a frame to the size that the file's boxes say, so a file of two kilobytes that says 64 x 64 may
hold a frame of 268 megapixels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from clip_embeddings.images.boxes import find_boxes, walk_boxes

# OBU types: AV1 Bitstream & Decoding Process Specification, 6.2.2.
_SEQUENCE_HEADER = 1
_MAX_OBUS = 1000
_MAX_ITEMS = 10_000


def coded_pixels(data: bytes) -> int:
    """Pixels of the largest frame in an AVIF; 0 if there is none. Raises ValueError if it cannot be told."""
    streams = [*_items(data), *_first_samples(data)]
    headers = (header for stream in streams for header in _sequence_headers(stream))
    return max(map(_frame_pixels, headers), default=0)


def _items(data: bytes) -> Iterator[bytes]:
    """The content of every item of AV1: ISO/IEC 14496-12, 8.11.3 and 8.11.6."""
    coded = {
        _number(data, start + 4, start + (6 if data[start] < 3 else 8))
        for start, _ in find_boxes(data, b"meta", b"iinf", b"infe")
        # After the item's number and two bytes comes its type.
        if data[start + (8 if data[start] < 3 else 10) :][:4] == b"av01"
    }
    idat = next((data[start:end] for start, end in find_boxes(data, b"meta", b"idat")), b"")
    left = 4 * len(data)
    for start, end in find_boxes(data, b"meta", b"iloc"):
        fields = _Bytes(data, start, end)
        version = fields.take(1)
        fields.take(3)
        sizes = fields.take(2)
        offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
        index_size = sizes & 15 if version in (1, 2) else 0
        wide = 4 if version == 2 else 2
        for _ in range(min(_MAX_ITEMS, fields.take(wide))):
            item = fields.take(wide)
            method = fields.take(2) & 15 if version in (1, 2) else 0
            fields.take(2)
            base = fields.take(base_size)
            source, parts = idat if method == 1 else data, []
            for _ in range(fields.take(2)):
                fields.take(index_size)
                first = base + fields.take(offset_size)
                length = fields.take(length_size)
                parts.append(source[first : first + length] if length else source[first:])
                left -= len(parts[-1])
                if left < 0:
                    raise ValueError("items overlap")
            if item in coded:
                yield b"".join(parts)


def _first_samples(data: bytes) -> Iterator[bytes]:
    """The first frame of every track of an image sequence: ISO/IEC 14496-12, 8.7."""
    for start, end in find_boxes(data, b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        size, offset, coded = 0, None, False
        for name, first, last in walk_boxes(data, start, end):
            if name == b"stsd":
                coded = b"av01" in data[first:last]
            elif name == b"stsz":
                same, count = struct.unpack_from(">II", data, first + 4)
                size = same or (struct.unpack_from(">I", data, first + 12)[0] if count else 0)
            elif name in (b"stco", b"co64"):
                (offset,) = struct.unpack_from(">I" if name == b"stco" else ">Q", data, first + 8)
        if offset is not None and coded:
            yield data[offset : offset + size]


def _number(data: bytes, start: int, end: int) -> int:
    return int.from_bytes(data[start:end], "big")


def _sequence_headers(stream: bytes) -> Iterator[bytes]:
    position = 0
    for _ in range(_MAX_OBUS):
        if position >= len(stream):
            return
        head = stream[position]
        # obu_extension_flag, obu_has_size_field.
        position += 2 if head & 4 else 1
        size = len(stream) - position
        if head & 2:
            size = 0
            for shift in range(0, 56, 7):
                byte = stream[position]
                position += 1
                size |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            yield stream[position : position + size]
        position += size
    raise ValueError("too many OBUs")


def _frame_pixels(header: bytes) -> int:
    """Width times height of the frames that follow a sequence header: AV1 specification, 5.5.1."""
    bits = _Bits(header)
    bits.take(4)
    reduced = bits.take(1)
    if reduced:
        bits.take(5)
    else:
        _skip_operating_points(bits)
    across, down = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(across) + 1, bits.take(down) + 1
    if not reduced and (across > width.bit_length() + 1 or down > height.bit_length() + 1):
        # A frame could then be larger than its sequence header says.
        raise ValueError("more bits than the size needs")
    return width * height


def _skip_operating_points(bits: _Bits) -> None:
    delay = 0
    if bits.take(1):
        bits.take(64)
        if bits.take(1):
            bits.skip_exponential()
        if bits.take(1):
            delay = bits.take(5) + 1
            bits.take(42)
    display_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay and bits.take(1):
            bits.take(2 * delay + 1)
        if display_delay and bits.take(1):
            bits.take(4)


class _Bytes:
    """Reads unsigned numbers of whole bytes."""

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self._data = data
        self._position = position
        self._end = end

    def take(self, count: int) -> int:
        start, self._position = self._position, self._position + count
        if self._position > self._end:
            raise ValueError("the box ends too early")
        return _number(self._data, start, self._position)


class _Bits:
    """Reads unsigned numbers of bits, the most significant one first."""

    def __init__(self, data: bytes) -> None:
        # A sequence header has a few dozen bytes.
        self._data = data[:1024]
        self._value = int.from_bytes(self._data, "big")
        self._left = 8 * len(self._data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("the sequence header ends too early")
        return self._value >> self._left & (1 << count) - 1

    def skip_exponential(self) -> None:
        """Skip a number in uvlc(): as many bits as there are zeros before its first one."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        self.take(zeros)
