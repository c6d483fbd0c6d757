"""Finds where a request ends in the bytes of a connection. No input or output: bytes in, positions out.

It tells only how far to read. What the bytes mean is decided by gunicorn's parser, which gets exactly the
bytes up to that position: whatever is not understood here is handed to it as it is, and the connection is not
used for another request.
"""

from __future__ import annotations

import re
from enum import Enum

# gunicorn refuses longer lines itself: DEFAULT_MAX_CHUNK_SIZE_LINE in gunicorn/http/body.py.
MAX_CHUNK_LINE = 8190
MAX_TRAILER = 32 * 1024
# What the framing of a chunked body may take on top of its data, so that no body of tiny chunks makes work
# without end. A body of 64 KiB in chunks of one byte has 320 KiB of framing.
MAX_FRAMING = 1024 * 1024

_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
# RFC 9112, section 7.1. Extensions are checked by gunicorn.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?", re.DOTALL)


class Progress(Enum):
    """What the bytes so far are."""

    MORE = "more bytes are needed"
    COMPLETE = "complete"
    TOO_LARGE = "too large"
    MALFORMED = "malformed"


class HeadScanner:
    """Finds the end of the head: the request line, the headers and the empty line after them."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._scanned = 0
        # The number of bytes of the head, once it is complete.
        self.size = 0

    def scan(self, data: bytearray) -> Progress:
        """Look at `data`, all bytes of the head that have arrived, and possibly more."""
        # The end may lie across what was scanned before and what is new.
        end = data.find(b"\r\n\r\n", max(0, self._scanned - 3), self._max_bytes)
        # RFC 9112, section 2.2: lines end with CRLF. With another ending, the end would never come.
        if _BARE_LINE_FEED.search(data, self._scanned, end if end >= 0 else self._max_bytes):
            return Progress.MALFORMED
        if end >= 0:
            self.size = end + 4
            return Progress.COMPLETE
        self._scanned = len(data)
        return Progress.TOO_LARGE if len(data) >= self._max_bytes else Progress.MORE


class ChunkScanner:
    """Finds the end of a chunked body (RFC 9112, section 7.1) by walking over its chunks.

    Args:
        max_bytes: the most data that the chunks may hold.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        # Where the next line is, which tells the size of a chunk.
        self._next = 0
        self._scanned = 0
        self._in_trailer = False
        # Bytes of data in the chunks that have begun.
        self._data_bytes = 0
        # The number of bytes of the body with its framing, once it is complete.
        self.size = 0

    def scan(self, data: bytearray) -> Progress:
        """Look at `data`, all bytes of the body that have arrived, and possibly more."""
        while not self._in_trailer:
            end = data.find(b"\r\n", max(self._next, self._scanned - 1))
            if (end if end >= 0 else len(data)) - self._next > MAX_CHUNK_LINE:
                return Progress.MALFORMED
            if end < 0:
                self._scanned = len(data)
                return Progress.MORE
            line = _CHUNK_LINE.fullmatch(data, self._next, end)
            if line is None:
                return Progress.MALFORMED
            chunk = int(line[1], 16)
            self._data_bytes += chunk
            framing = end + 2 - (self._data_bytes - chunk)
            if self._data_bytes > self._max_bytes or framing > MAX_FRAMING:
                return Progress.TOO_LARGE
            self._in_trailer = chunk == 0
            self._next = end + 2 + (chunk + 2 if chunk else 0)
        return self._scan_trailer(data)

    def _scan_trailer(self, data: bytearray) -> Progress:
        if data[self._next : self._next + 2] == b"\r\n":
            self.size = self._next + 2
            return Progress.COMPLETE
        end = data.find(b"\r\n\r\n", max(self._next, self._scanned - 3))
        last = end if end >= 0 else len(data)
        if last - self._next > MAX_TRAILER or _BARE_LINE_FEED.search(
            data, max(self._next, self._scanned), last
        ):
            return Progress.MALFORMED
        self._scanned = len(data)
        if end < 0:
            return Progress.MORE
        self.size = end + 4
        return Progress.COMPLETE
