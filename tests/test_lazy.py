"""A lazy value: made once, whoever asks; a failure is not kept."""

import threading
import time

import pytest

from clip_embeddings.lazy import Lazy


def test_many_threads_get_one_value_made_once() -> None:
    made: list[object] = []

    def make() -> object:
        time.sleep(0.01)
        made.append(object())
        return made[-1]

    lazy, got = Lazy(make), []
    threads = [threading.Thread(target=lambda: got.append(lazy.get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(made) == 1
    assert set(map(id, got)) == {id(made[0])}


def test_a_failure_is_tried_again() -> None:
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
