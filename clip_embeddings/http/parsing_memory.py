"""The memory that the body of a request takes once it is parsed, drawn from a budget before it is parsed."""

from __future__ import annotations

from contextlib import ExitStack

from clip_embeddings import malloc
from clip_embeddings.errors import ApiError
from clip_embeddings.semaphore import FairSemaphore, OverloadedError

KiB = 1024

# Less than this is not worth counting: as many threads as there are take a few megabytes.
UNCOUNTED = 256 * KiB
# From here on, what a request leaves in the heaps is worth the milliseconds that it takes to give it back and
# to have it again. A photograph takes less.
TRIMMED = 16 * 1024 * KiB
# Seconds to wait for memory.
TIMEOUT = 10.0
# What one JSON value takes beside its characters: a Python object, and its place in a list or dictionary.
JSON_VALUE_BYTES = 100
# Decoded base64, in a body that is nothing else.
DECODED = 0.75
# A character above U+FFFF begins with one of these in UTF-8, or with a surrogate if it is escaped. In a
# Python string, it makes every character take four bytes (PEP 393).
_FOUR_BYTE_MARKS = (b"\xf0", b"\xf1", b"\xf2", b"\xf3", b"\xf4", b"\\ud", b"\\uD")
# More of them are not looked at one by one.
MAX_PLACES = 1000
BACKSLASH = ord("\\")


class ParsingMemory:
    """What one request holds of the budget, until `release`."""

    def __init__(self, budget: FairSemaphore) -> None:
        self._budget = budget
        self._held = ExitStack()
        self._amount = 0

    def draw(self, amount: int) -> None:
        """Wait until `amount` bytes can be had, and hold them. Call it once per request.

        Raises:
            ApiError: 413 if there will never be so much, 429 if the wait takes too long.
        """
        if amount <= UNCOUNTED:
            return
        if amount > self._budget.width:
            raise never_fits(
                f"The body would take {amount:,} bytes of memory once it is parsed", self._budget.width
            )
        try:
            self._held.enter_context(self._budget.acquire(amount, timeout=TIMEOUT))
            self._amount = amount
        except OverloadedError:
            raise no_room() from None

    def release(self) -> None:
        """Give back what is held. What a large request leaves in the heaps goes back to the system."""
        self._held.close()
        if self._amount >= TRIMMED:
            malloc.trim()


def never_fits(why: str, allowed: int) -> ApiError:
    """The error for a body that there will never be memory for. `why` is the message's first half."""
    message = f"{why}; this instance has {allowed:,} for all bodies. Send less at once."
    return ApiError(413, "request_too_large", message)


def no_room() -> ApiError:
    """The error for a body whose memory other requests hold."""
    message = "Too many large requests are in work; try again in a few seconds."
    return ApiError(429, "overloaded", message, retry_after=5)


def json_bytes(data: bytearray, values: int) -> int:
    """An upper bound of what a JSON document takes once it is parsed and its base64 is decoded, in bytes.

    Args:
        values: how many values it holds.
    """
    return int(len(data) * (1 + DECODED)) + _wide_bytes(data) + values * JSON_VALUE_BYTES


def _wide_bytes(data: bytearray) -> int:
    """What strings take beyond one byte for each of theirs in the document."""
    if data.isascii() and b"\\u" not in data:
        return 0
    wide, places = 0, 0
    for mark in _FOUR_BYTE_MARKS:
        place = data.find(mark)
        while place >= 0:
            # The string around it. An escaped quotation mark is not its end.
            start, end = data.rfind(b'"', 0, place), data.find(b'"', place)
            while start > 0 and data[start - 1] == BACKSLASH and places < MAX_PLACES:
                start, places = data.rfind(b'"', 0, start), places + 1
            while end > 0 and data[end - 1] == BACKSLASH and places < MAX_PLACES:
                end, places = data.find(b'"', end + 1), places + 1
            places += 1
            if places >= MAX_PLACES or end < 0:
                return 3 * len(data)
            wide += 2 * (end - start)
            place = data.find(mark, end)
    # Characters above U+00FF make every character of their string two bytes.
    return len(data) + wide
