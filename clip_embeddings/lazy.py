"""A value that is made once, at first use, by whichever thread needs it first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lazy(Generic[T]):
    """Holds the value that `make` returns. If `make` raises, nothing is kept: the next caller tries again."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._value: T | None = None
        self._failure: Exception | None = None

    def get(self) -> T:
        """Return the value, making it first if needed. Other threads wait meanwhile.

        Raises:
            Exception: what `make` raises, or what was given to `fail`.
        """
        value = self._value
        if value is None:
            with self._lock:
                if self._failure is not None:
                    raise self._failure.with_traceback(None)
                if self._value is None:
                    self._value = self._make()
                value = self._value
        return value

    def clear(self) -> None:
        """Drop the value, so that the next `get` makes a new one. Callers that have it can go on using it."""
        with self._lock:
            self._value = None

    def fail(self, error: Exception) -> None:
        """Drop the value for good: `get` raises `error` from now on. Who has the value can go on using it."""
        with self._lock:
            self._value, self._failure = None, error

    @property
    def made(self) -> bool:
        """Whether the value has been made."""
        return self._value is not None
