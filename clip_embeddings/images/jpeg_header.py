"""Reads the markers of a JPEG file: its size, how it is coded, how many scans it has."""

from __future__ import annotations

import re
from math import ceil

import msgspec

# The markers that libjpeg stops at: ITU-T T.81, annex B.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_SOS, _EOI = 0xDA, 0xD9
# SOF0 and SOF1, sequential Huffman coding: ITU-T T.81, table B.1.
_SEQUENTIAL = (0xC0, 0xC1)
# SOF0 to SOF15, without DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

# A progressive JPEG has about ten scans. A scan can be a few bytes long and costs a pass over the whole image
# (45 ms at 50 megapixels), so a megabyte of scans would take minutes.
_MAX_SCANS = 64
_MAX_SEGMENTS = 100_000


class JpegFrame(msgspec.Struct, frozen=True):
    """The frame header of a JPEG."""

    # In pixels.
    width: int
    height: int
    # Color components.
    components: int
    # What a decoder keeps of an image that comes in several scans: all coefficients, two bytes each.
    coefficient_bytes: int


def jpeg_frame(data: bytes) -> JpegFrame:
    """The frame header of a JPEG, as libjpeg reads it. Raises ValueError or IndexError if there is none."""
    position, frame = 2, None
    for _ in range(_MAX_SEGMENTS):
        marker = _MARKER.search(data, position)
        if marker is None:
            break
        position = marker.end()
        code = data[position - 1]
        if code in _FRAMES:
            frame = position
        elif code == _SOS and frame is not None:
            return _read_frame(data, frame, first_scan=position)
        position += int.from_bytes(data[position : position + 2], "big")
    raise ValueError("no image in this JPEG")


def has_too_many_scans(data: bytes) -> bool:
    """Whether a JPEG has more scans than any encoder writes."""
    position, scans, components = 2, 0, 0
    for _ in range(_MAX_SEGMENTS):
        marker = _MARKER.search(data, position)
        if marker is None or data[marker.end() - 1] == _EOI:
            return False
        position = marker.end()
        code = data[position - 1]
        if code in _SEQUENTIAL:
            components = int.from_bytes(data[position + 7 : position + 8])
        if code == _SOS:
            # A first scan that holds all components of a sequential image is also its last, so no more scans
            # need to be counted.
            complete = components and components == int.from_bytes(data[position + 2 : position + 3])
            if not scans and (complete or data.count(b"\xff\xda") <= _MAX_SCANS):
                return False
            scans += 1
            if scans > _MAX_SCANS:
                break
        position += int.from_bytes(data[position : position + 2], "big")
    return True


def _read_frame(data: bytes, position: int, first_scan: int) -> JpegFrame:
    # ITU-T T.81, B.2.2: length, precision, height, width, components, then for each its name, its sampling
    # factors in two halves of a byte, its table.
    height = int.from_bytes(data[position + 3 : position + 5], "big")
    width = int.from_bytes(data[position + 5 : position + 7], "big")
    components = data[position + 7]
    factors = [data[position + 9 + 3 * index] for index in range(components)]
    sampling = [(factor >> 4, factor & 15) for factor in factors]
    if not all(1 <= across <= 4 and 1 <= down <= 4 for across, down in sampling):
        raise ValueError("a sampling factor that no JPEG has")
    if data[position - 1] in _SEQUENTIAL and data[first_scan + 2] == components:
        return JpegFrame(width, height, components, 0)
    units_across = ceil(width / (8 * max(across for across, _ in sampling)))
    units_down = ceil(height / (8 * max(down for _, down in sampling)))
    blocks = sum(across * down for across, down in sampling) * units_across * units_down
    # 64 coefficients of two bytes: jvirt_barray of jdcoefct.c in libjpeg.
    return JpegFrame(width, height, components, blocks * 128)
