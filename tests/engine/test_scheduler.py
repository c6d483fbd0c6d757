"""The scheduler: as many runs as CPUs, in order; what waits runs together; one failing item fails alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from clip_embeddings.engine.model import normalize_rows
from clip_embeddings.engine.scheduler import Scheduler
from clip_embeddings.semaphore import OverloadedError
from tests.support.vectors import model


@dataclass(eq=False)
class Tower:
    """Doubles numbers, at most four in a run. The number -1 fails its run."""

    threads: int = 1
    runs: list[list[int]] = field(default_factory=list)
    # A run waits until this is set.
    go: threading.Event = field(default_factory=threading.Event)

    def may_run_together(self, items: Sequence[int]) -> bool:
        return len(items) <= 4

    def run(self, items: Sequence[int]) -> np.ndarray:
        self.runs.append(list(items))
        assert self.go.wait(10)
        if -1 in items:
            raise ArithmeticError("minus one")
        return np.array([[2.0 * item] for item in items], np.float32)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(50) as executor:
        yield executor


@contextmanager
def busy(scheduler: Scheduler, pool: ThreadPoolExecutor) -> Iterator[None]:
    """Every CPU is taken during the block."""
    blocker = Tower()
    futures = [pool.submit(scheduler.run, blocker, [[0]]) for _ in range(scheduler.cpus)]
    _wait_for(lambda: len(blocker.runs) == scheduler.cpus)
    try:
        yield
    finally:
        blocker.go.set()
        for future in futures:
            future.result(10)


def submit_in_order(
    scheduler: Scheduler,
    pool: ThreadPoolExecutor,
    tower: Tower,
    items: Sequence[int],
    background: bool = False,
) -> list[Future[np.ndarray]]:
    """One request for each item, which wait in this order."""
    futures = []
    for item in items:
        waiting = len(scheduler._waiting)
        futures.append(pool.submit(scheduler.run, tower, [[item]], background=background))
        _wait_for(lambda waiting=waiting: len(scheduler._waiting) == waiting + 1)  # type: ignore[misc]
    return futures


def test_what_waits_runs_together_in_order_of_arrival(pool: ThreadPoolExecutor) -> None:
    scheduler, tower = Scheduler(1, 64), Tower()
    tower.go.set()
    with busy(scheduler, pool):
        futures = submit_in_order(scheduler, pool, tower, range(1, 11))
    values = [future.result(10).tolist() for future in futures]

    assert values == [[[2.0 * number]] for number in range(1, 11)]
    assert tower.runs == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_an_item_that_fails_fails_alone(pool: ThreadPoolExecutor) -> None:
    scheduler, tower = Scheduler(1, 64), Tower()
    tower.go.set()
    with busy(scheduler, pool):
        futures = submit_in_order(scheduler, pool, tower, [1, -1, 3])

    assert futures[0].result(10).tolist() == [[2.0]]
    assert futures[2].result(10).tolist() == [[6.0]]
    with pytest.raises(ArithmeticError, match="minus one"):
        futures[1].result(10)
    assert tower.runs == [[1, -1, 3], [1], [-1], [3]]


def test_towers_and_background_work_do_not_share_runs(pool: ThreadPoolExecutor) -> None:
    scheduler, one, other = Scheduler(1, 64), Tower(), Tower()
    one.go.set()
    other.go.set()
    with busy(scheduler, pool):
        futures = [
            *submit_in_order(scheduler, pool, one, [1]),
            *submit_in_order(scheduler, pool, other, [2]),
            *submit_in_order(scheduler, pool, one, [3], background=True),
            *submit_in_order(scheduler, pool, one, [4]),
        ]
    assert [future.result(10).item() for future in futures] == [2.0, 4.0, 6.0, 8.0]

    assert one.runs == [[1, 4], [3]]
    assert other.runs == [[2]]


def test_as_many_runs_go_on_at_once_as_there_are_cpus(pool: ThreadPoolExecutor) -> None:
    scheduler, tower = Scheduler(3, 64), Tower()
    whole = pool.submit(scheduler.run, tower, [[number] for number in range(1, 9)])
    _wait_for(lambda: len(tower.runs) == 3)
    time.sleep(0.05)

    assert len(tower.runs) == 3
    assert scheduler.idle_runs(tower) == 0
    tower.go.set()
    assert whole.result(10).ravel().tolist() == [2.0 * number for number in range(1, 9)]
    assert scheduler.idle_runs(tower) == 3


def test_a_tower_of_several_threads_takes_as_many_cpus(pool: ThreadPoolExecutor) -> None:
    scheduler, large, small = Scheduler(2, 64), Tower(threads=2), Tower()
    small.go.set()
    running = pool.submit(scheduler.run, large, [[1]])
    _wait_for(lambda: bool(large.runs))
    waiting = submit_in_order(scheduler, pool, small, [2])

    assert small.runs == []
    large.go.set()
    assert running.result(10).item() == 2.0
    assert waiting[0].result(10).item() == 4.0


def test_a_full_queue_refuses_requests_but_not_the_parts_of_one_that_was_admitted(
    pool: ThreadPoolExecutor,
) -> None:
    scheduler, tower = Scheduler(1, 1), Tower()
    large = pool.submit(scheduler.run, tower, [[1], [2], [3]])
    _wait_for(lambda: len(tower.runs) == 1)
    (waiting,) = submit_in_order(scheduler, pool, tower, [4])

    with pytest.raises(OverloadedError):
        scheduler.run(tower, [[5]])
    (background,) = submit_in_order(scheduler, pool, tower, [6], background=True)
    tower.go.set()

    assert large.result(10).ravel().tolist() == [2.0, 4.0, 6.0]
    assert waiting.result(10).item() == 8.0
    assert background.result(10).item() == 12.0
    assert scheduler.run(tower, [[5]]).item() == 10.0


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_check_that_raises_ends_the_work_before_the_next_part(cpus: int) -> None:
    scheduler, tower, calls = Scheduler(cpus, 64), Tower(), 0
    tower.go.set()

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        scheduler.run(tower, [[number] for number in range(100)], check=check)

    assert len(tower.runs) <= 5 + cpus
    assert scheduler.run(tower, [[1]]).item() == 2.0


def test_texts_of_many_requests_at_once_get_the_vectors_of_single_texts(pool: ThreadPoolExecutor) -> None:
    tower = model().text.get()
    texts = [" ".join(["cat", "red", "dog"] * (number % 9 + 1)) + f" {number}" for number in range(120)]
    separate = [normalize_rows(tower.embed([text]).vectors) for text in texts]

    together = list(pool.map(lambda text: normalize_rows(tower.embed([text]).vectors), texts))

    assert np.abs(np.concatenate(together) - np.concatenate(separate)).max() <= 1e-5


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
