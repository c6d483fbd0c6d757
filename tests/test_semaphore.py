"""The gate: bounded width, first come first served, bounded queue."""

import threading
import time

import pytest

from clip_embeddings.semaphore import Gate, OverloadedError


def test_no_more_than_width_hold_at_once() -> None:
    gate, inside, most = Gate(width=2, queue=100), 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with gate.hold():
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.002)
            with lock:
                inside -= 1

    _run_all([threading.Thread(target=work) for _ in range(20)])

    assert most == 2


def test_those_who_wait_go_in_the_order_they_came() -> None:
    gate, order = Gate(width=1, queue=100), []

    def work(number: int) -> None:
        with gate.hold():
            order.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    with gate.hold():
        for count, thread in enumerate(threads, 1):
            thread.start()
            _wait_for(lambda count=count: len(gate._waiting) == count)
    for thread in threads:
        thread.join()

    assert order == list(range(10))


def test_a_full_queue_refuses_and_recovers() -> None:
    gate = Gate(width=1, queue=0)

    with gate.hold(), pytest.raises(OverloadedError), gate.hold():
        pass

    with gate.hold():
        pass


def test_a_failure_inside_gives_the_place_back() -> None:
    gate = Gate(width=1, queue=0)

    with pytest.raises(ZeroDivisionError), gate.hold():
        raise ZeroDivisionError

    with gate.hold():
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
