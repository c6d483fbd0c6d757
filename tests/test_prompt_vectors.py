"""The vectors of prompts that are kept: bounded, the least recently used ones go first."""

from __future__ import annotations

import tracemalloc

import numpy as np

from clip_embeddings.memory import PROMPT_BYTES
from clip_embeddings.prompt_vectors import ENTRY_BYTES, PromptVectors


def _vector(value: float, dimensions: int = 512) -> np.ndarray:
    return np.full(dimensions, value, np.float32)


def test_what_is_kept_is_found_under_its_fingerprint_only() -> None:
    vectors = PromptVectors(100_000)

    vectors.keep("one", {"cat": _vector(1)})

    assert vectors.find("one", ["cat", "dog"]).keys() == {"cat"}
    assert (vectors.find("one", ["cat"])["cat"] == 1).all()
    assert vectors.find("other", ["cat"]) == {}


def test_what_was_not_used_for_the_longest_time_goes_first() -> None:
    room = 3 * (512 * 4 + ENTRY_BYTES + 60)
    vectors = PromptVectors(room)
    vectors.keep("f", {"a": _vector(1), "b": _vector(2), "c": _vector(3)})

    vectors.find("f", ["a"])
    vectors.keep("f", {"d": _vector(4)})

    assert vectors.find("f", ["a", "b", "c", "d"]).keys() == {"a", "c", "d"}
    assert vectors.bytes <= room


def test_what_is_larger_than_the_room_is_not_kept() -> None:
    vectors = PromptVectors(1000)

    vectors.keep("f", {"a": _vector(1)})

    assert (vectors.find("f", ["a"]), vectors.bytes) == ({}, 0)


def test_the_memory_is_what_is_counted() -> None:
    tracemalloc.start()
    try:
        vectors = PromptVectors(PROMPT_BYTES)
        for batch in range(40):
            rows = np.zeros((100, 512), np.float32)
            vectors.keep("f" * 16, {f"a photo of label {batch} {n}.": row for n, row in enumerate(rows)})
            del rows
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert PROMPT_BYTES * 0.9 <= vectors.bytes <= PROMPT_BYTES
    assert taken <= PROMPT_BYTES
