"""FairSemaphore: bounded width, first come first served, bounded queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from clip_embeddings.semaphore import FairSemaphore, OverloadedError


def test_at_most_width_threads_hold_it_at_once() -> None:
    semaphore, holders, most_holders = FairSemaphore(width=2, queue=100), 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal holders, most_holders
        with semaphore.acquire():
            with lock:
                holders += 1
                most_holders = max(most_holders, holders)
            time.sleep(0.002)
            with lock:
                holders -= 1

    _run_all([threading.Thread(target=work) for _ in range(20)])

    assert most_holders == 2


def test_waiting_threads_are_admitted_in_order_of_arrival() -> None:
    semaphore = FairSemaphore(width=1, queue=100)
    order: list[int] = []

    def work(number: int) -> None:
        with semaphore.acquire():
            order.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    with semaphore.acquire():
        for count, thread in enumerate(threads, 1):
            thread.start()
            _wait_for(lambda count=count: len(semaphore._waiting) == count)  # type: ignore[misc]
    for thread in threads:
        thread.join()

    assert order == list(range(10))


def test_a_full_queue_refuses_and_recovers() -> None:
    semaphore = FairSemaphore(width=1, queue=0)

    with semaphore.acquire(), pytest.raises(OverloadedError), semaphore.acquire():
        pass

    with semaphore.acquire():
        pass


def test_an_exception_inside_the_block_releases_the_place() -> None:
    semaphore = FairSemaphore(width=1, queue=0)

    with pytest.raises(ZeroDivisionError), semaphore.acquire():
        raise ZeroDivisionError

    with semaphore.acquire():
        pass


def test_a_holder_may_take_several_places_and_nobody_overtakes_it() -> None:
    budget = FairSemaphore(width=10, queue=100)
    order: list[int] = []

    def work(amount: int) -> None:
        with budget.acquire(amount):
            order.append(amount)

    threads = [threading.Thread(target=work, args=(amount,)) for amount in (8, 3, 1)]
    with budget.acquire(5):
        for count, thread in enumerate(threads, 1):
            thread.start()
            # Three places are free all the time, but the one that needs eight came first.
            _wait_for(lambda count=count: len(budget._waiting) == count)  # type: ignore[misc]
        assert not budget.try_acquire(1)
    for thread in threads:
        thread.join()

    assert order[0] == 8
    assert budget.try_acquire(10)


def test_more_places_than_there_are_can_never_be_had() -> None:
    with pytest.raises(ValueError, match="never"), FairSemaphore(width=3, queue=9).acquire(4):
        pass


def test_a_wait_that_takes_too_long_ends_and_lets_the_next_one_pass() -> None:
    budget = FairSemaphore(width=10, queue=100)
    admitted = threading.Event()

    def small() -> None:
        with budget.acquire(2):
            admitted.set()

    with budget.acquire(5):
        follower = threading.Thread(target=small)

        def large() -> None:
            with pytest.raises(OverloadedError), budget.acquire(8, timeout=0.2):
                pass

        first = threading.Thread(target=large)
        first.start()
        _wait_for(lambda: len(budget._waiting) == 1)
        follower.start()
        assert admitted.wait(5)
        first.join()
        follower.join()

    assert budget.try_acquire(10)


def _run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
