"""What a JSON body becomes is never more than what is reserved for it, nor far less."""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import pytest

from clip_embeddings.errors import ApiError
from clip_embeddings.http.parsing_memory import UNCOUNTED, ParsingMemory, json_bytes
from clip_embeddings.semaphore import FairSemaphore

# One byte per character in Python, two, and four.
ALPHABETS = ["abc", 'abc"\\', "é", "中", "😀", "aé", "a中", "a😀", '"😀', "\\中😀a"]


def size(value: Any) -> int:
    """What a parsed value takes, in bytes."""
    if isinstance(value, dict):
        return sys.getsizeof(value) + sum(size(key) + size(item) for key, item in value.items())
    if isinstance(value, list):
        return sys.getsizeof(value) + sum(map(size, value))
    return sys.getsizeof(value)


def estimate(body: bytes) -> int:
    return json_bytes(bytearray(body), sum(map(body.count, (b",", b"[", b"{"))))


@pytest.mark.parametrize("escaped", [True, False], ids=["escapes", "UTF-8"])
@pytest.mark.parametrize("seed", range(40))
def test_a_document_takes_no_more_than_is_reserved(seed: int, escaped: bool) -> None:
    noise = random.Random(seed)
    texts = [
        "".join(noise.choices(noise.choice(ALPHABETS), k=noise.choice([0, 1, 20, 5000])))
        for _ in range(noise.choice([1, 30, 200]))
    ]
    body = json.dumps({"texts": texts, "images": texts[:3]}, ensure_ascii=escaped).encode()

    assert size(json.loads(body)) <= estimate(body) + 1000


def test_one_emoji_does_not_quadruple_a_large_picture() -> None:
    body = json.dumps({"texts": ["😀 smile"], "images": ["A" * 10_000_000]}).encode()
    assert estimate(body) < 3 * len(body)
    plain = json.dumps({"texts": ["smile"], "images": ["A" * 10_000_000]}).encode()
    assert estimate(plain) < 1.8 * len(plain)


def test_strings_full_of_escaped_quotation_marks_take_no_time() -> None:
    body = b'{"texts": ["' + rb"\"" * 5_000_000 + "😀".encode() + rb"\"" * 5_000_000 + b'"]}'
    assert estimate(body) >= 4 * 10_000_000


def test_memory_is_held_until_it_is_released() -> None:
    budget = FairSemaphore(10 * UNCOUNTED, 5)
    memory = ParsingMemory(budget)
    memory.draw(UNCOUNTED)
    assert budget.try_acquire(10 * UNCOUNTED)
    budget.release(10 * UNCOUNTED)

    memory.draw(6 * UNCOUNTED)
    assert not budget.try_acquire(5 * UNCOUNTED)
    memory.release()
    assert budget.try_acquire(10 * UNCOUNTED)


def test_what_never_fits_is_refused_with_the_size_that_does() -> None:
    with pytest.raises(ApiError, match="1,000,000") as caught:
        ParsingMemory(FairSemaphore(1_000_000, 5)).draw(1_000_001)
    assert caught.value.status == 413


def test_a_full_queue_is_told_to_come_back() -> None:
    budget = FairSemaphore(1_000_000, 0)
    assert budget.try_acquire(900_000)
    with pytest.raises(ApiError) as caught:
        ParsingMemory(budget).draw(500_000)
    assert (caught.value.status, caught.value.retry_after) == (429, 5)
