"""A file of vectors that were made already, so that an evaluation that is interrupted can be resumed."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from model_cache.evaluating.embedders import Cost
from model_cache.evaluating.errors import EvaluationError

# SQLite's limit on the variables of a statement was 999 before version 3.32.
_KEYS = 500


def text_key(text: str) -> bytes:
    """Identifies a text."""
    return hashlib.sha256(b"text\0" + text.encode("utf-8", "surrogatepass")).digest()


def picture_key(data: bytes) -> bytes:
    """Identifies a picture by the bytes of its file, wherever it lies."""
    return hashlib.sha256(b"picture\0" + data).digest()


class VectorCache:
    """Vectors by the fingerprint of what made them and the key of their item.

    Raises:
        EvaluationError: the file cannot be opened, or is none of this kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path)
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS vectors (fingerprint TEXT, item BLOB, vector BLOB, seconds REAL, "
                "cpu_seconds REAL, PRIMARY KEY (fingerprint, item)) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise EvaluationError(f"The cache {path} cannot be opened ({error}): name another one.") from None

    def __enter__(self) -> VectorCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def missing(self, fingerprint: str, keys: Sequence[bytes]) -> list[bytes]:
        """Those of `keys` that have no vector, in their order, each once."""
        present = set(self._select("item", fingerprint, keys))
        return [key for key in dict.fromkeys(keys) if (key,) not in present]

    def vectors(self, fingerprint: str, keys: Sequence[bytes]) -> np.ndarray:
        """The vectors of `keys`, which all have one: (n, d) float32."""
        rows: dict[bytes, bytes] = dict(self._select("item, vector", fingerprint, keys))
        return np.stack([np.frombuffer(rows[key], np.float32) for key in keys])

    def cost(self, fingerprint: str, keys: Sequence[bytes]) -> Cost:
        """What each of `keys` took in the mean, when its vector was made."""
        rows = self._select("seconds, cpu_seconds", fingerprint, keys)
        seconds, cpu_seconds = zip(*rows, strict=True)
        return Cost(float(np.mean(seconds)), float(np.mean(cpu_seconds)))

    def add(self, fingerprint: str, vectors: Mapping[bytes, np.ndarray], cost: Cost) -> None:
        """Store vectors (d,) float32 by their keys; `cost` is that of each. Survives an interruption."""
        with self._database:
            self._database.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?, ?)",
                [
                    (fingerprint, key, vector.astype(np.float32).tobytes(), cost.seconds, cost.cpu_seconds)
                    for key, vector in vectors.items()
                ],
            )

    def _select(self, columns: str, fingerprint: str, keys: Sequence[bytes]) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        distinct = list(dict.fromkeys(keys))
        for start in range(0, len(distinct), _KEYS):
            part = distinct[start : start + _KEYS]
            marks = ",".join("?" * len(part))
            query = f"SELECT {columns} FROM vectors WHERE fingerprint = ? AND item IN ({marks})"
            with closing(self._database.execute(query, (fingerprint, *part))) as cursor:
                rows += cursor.fetchall()
        return rows
