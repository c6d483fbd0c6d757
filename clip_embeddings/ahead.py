"""Applies a function to many items in threads, a few items ahead of whoever uses the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def map_ahead(
    function: Callable[[S], T], items: Iterable[S], *, threads: int, ahead: int, name: str
) -> Iterator[T]:
    """`function` of each item, in order. At most `ahead` results are made before they are used.

    `items` are taken in the thread that takes the results. What `function` raises is raised in its place.

    Args:
        name: of the threads, for logs.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    running: deque[Future[T]] = deque()
    try:
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) == ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        # If the results are abandoned, what runs ends by itself.
        pool.shutdown(wait=False, cancel_futures=True)
