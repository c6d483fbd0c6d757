"""The gate: bounded width, first come first served, bounded queue."""

import threading
import time

import pytest

from clip_embeddings.semaphore import FairSemaphore, OverloadedError


def test_no_more_than_width_hold_at_once() -> None:
    semaphore, inside, most = FairSemaphore(width=2, queue=100), 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with semaphore.acquire():
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.002)
            with lock:
                inside -= 1

    _run_all([threading.Thread(target=work) for _ in range(20)])

    assert most == 2


def test_those_who_wait_go_in_the_order_they_came() -> None:
    semaphore, order = FairSemaphore(width=1, queue=100), []

    def work(number: int) -> None:
        with semaphore.acquire():
            order.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    with semaphore.acquire():
        for count, thread in enumerate(threads, 1):
            thread.start()
            _wait_for(lambda count=count: len(semaphore._waiting) == count)
    for thread in threads:
        thread.join()

    assert order == list(range(10))


def test_a_full_queue_refuses_and_recovers() -> None:
    semaphore = FairSemaphore(width=1, queue=0)

    with semaphore.acquire(), pytest.raises(OverloadedError), semaphore.acquire():
        pass

    with semaphore.acquire():
        pass


def test_a_failure_inside_gives_the_place_back() -> None:
    semaphore = FairSemaphore(width=1, queue=0)

    with pytest.raises(ZeroDivisionError), semaphore.acquire():
        raise ZeroDivisionError

    with semaphore.acquire():
        pass


def _run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _wait_for(condition: object) -> None:
    deadline = time.monotonic() + 5
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.001)
