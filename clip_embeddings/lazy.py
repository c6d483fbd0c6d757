"""A value made at first use, once, whoever asks first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lazy(Generic[T]):
    """Holds what `make` returns. A failure is not kept: the next caller tries again."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._value: T | None = None

    def get(self) -> T:
        """The value, made now if it is not there yet; other threads wait meanwhile."""
        value = self._value
        if value is None:
            with self._lock:
                if self._value is None:
                    self._value = self._make()
                value = self._value
        return value

    def clear(self) -> None:
        """Forget the value; whoever holds it keeps it."""
        with self._lock:
            self._value = None

    @property
    def made(self) -> bool:
        """True once the value is there."""
        return self._value is not None
