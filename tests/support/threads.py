"""Steps that run at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence


def run_threads(steps: Sequence[Callable[[], object]]) -> None:
    """Run each step in a thread of its own, all from one moment on. Fails if any of them raises."""
    barrier = threading.Barrier(len(steps))
    errors: list[BaseException] = []

    def run(step: Callable[[], object]) -> None:
        barrier.wait()
        try:
            step()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
