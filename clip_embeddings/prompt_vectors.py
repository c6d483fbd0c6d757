"""The vectors of prompts that were classified by, kept for the next request with the same labels."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping

import numpy as np

# What an entry takes beside its vector and its prompt: the key, an array, its place in the dictionary.
# Measured with tracemalloc: 200 to 320 bytes, as full as the dictionary is.
ENTRY_BYTES = 350


class PromptVectors:
    """Unit vectors by fingerprint of the text tower and prompt, up to `max_bytes`; those that were used last
    stay. Any number of threads may use it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._vectors: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """The bytes that the entries take."""
        return self._bytes

    def find(self, fingerprint: str, prompts: Iterable[str]) -> dict[str, np.ndarray]:
        """The vectors (d,) of those of `prompts` that are kept."""
        known = {}
        with self._lock:
            for prompt in prompts:
                key = (fingerprint, prompt)
                if (vector := self._vectors.get(key)) is not None:
                    self._vectors.move_to_end(key)
                    known[prompt] = vector
        return known

    def keep(self, fingerprint: str, vectors: Mapping[str, np.ndarray]) -> None:
        """Keep `vectors` (d,) by their prompts, and drop those that were not used for the longest time."""
        with self._lock:
            for prompt, vector in vectors.items():
                key = (fingerprint, prompt)
                if key not in self._vectors:
                    # A copy: a row would hold the array of its whole batch.
                    self._vectors[key] = vector.copy()
                    self._bytes += _size(prompt, vector)
            while self._bytes > self._max_bytes:
                (_, prompt), vector = self._vectors.popitem(last=False)
                self._bytes -= _size(prompt, vector)


def _size(prompt: str, vector: np.ndarray) -> int:
    return sys.getsizeof(prompt) + vector.nbytes + ENTRY_BYTES
