"""Lazy: the value is made once for all threads, and a failure is not kept."""

from __future__ import annotations

import threading
import time

import pytest

from clip_embeddings.lazy import Lazy


def test_many_threads_get_the_one_value() -> None:
    values: list[object] = []

    def make() -> object:
        time.sleep(0.01)
        values.append(object())
        return values[-1]

    lazy = Lazy(make)
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(lazy.get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(values) == 1
    assert set(map(id, results)) == {id(values[0])}


def test_the_call_after_a_failure_makes_the_value() -> None:
    attempts: list[int] = []

    def make() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError
        return "value"

    lazy = Lazy(make)
    with pytest.raises(ValueError):  # noqa: PT011
        lazy.get()
    assert not lazy.made

    assert lazy.get() == "value"
    assert lazy.made
