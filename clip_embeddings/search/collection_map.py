"""A map of the collection: points of a plane, where objects that are alike are near each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from clip_embeddings.background import BackgroundThread
from clip_embeddings.errors import ApiError
from clip_embeddings.http.routing import RequestContext
from clip_embeddings.index.types import Entry, Index
from clip_embeddings.search.projection import project
from clip_embeddings.search.replies import thumbnail_path
from clip_embeddings.search.searcher import Searcher

# Points of a map: more are no clearer on a screen, and the time to make it grows with their square.
MAX_POINTS = 1000
# Seconds for which the first request waits for a map; beside other work it may take as long.
WAIT_SECONDS = 20.0
# The largest share of the time that is spent on making maps, and the seconds between two of them, at least.
TIME_SHARE, MIN_PAUSE = 0.02, 5.0
# Seconds after which a map of as many objects is made anew: some may have been replaced.
MAX_AGE = 600.0
# Digits of a coordinate: a thousandth of a large screen's pixel, at a zoom of 10.
DIGITS = 4


class _Map(msgspec.Struct, frozen=True):
    space: str
    # What the reply has as `points`.
    points: list[Mapping[str, Any]]
    # Entries of the space, and the value of Index.replacements, when it was made.
    count: int
    replacements: int
    # Times of time.monotonic(): when it was made, and before when no other is.
    made: float
    next: float


class CollectionMap:
    """The map of an index, made when it is asked for and kept while the index stays as it is.

    One is made at a time, in a thread of low priority. Whoever asks meanwhile gets the last one.
    """

    def __init__(self, index: Index, bucket: str | None) -> None:
        self._index = index
        self._bucket = bucket
        self._lock = threading.Lock()
        self._kept: _Map | None = None

    def get(self, space: str) -> _Map:
        """The map of the entries of `space`.

        Raises:
            ApiError: 503 `map_pending` while the first one is being made for another request.
            StorageError: the index does not answer.
        """
        kept, count, replacements = self._kept, self._index.count(space), self._index.replacements()
        if kept is not None and kept.space == space and not _is_outdated(kept, count, replacements):
            return kept
        if not self._lock.acquire(blocking=False):
            if kept is not None and kept.space == space:
                return kept
            raise _pending()
        try:
            made = _in_background(lambda: self._make(space, count, replacements), self._lock)
        except TimeoutError:
            raise _pending() from None
        return made

    def _make(self, space: str, count: int, replacements: int) -> _Map:
        started = time.monotonic()
        entries = self._index.sample(space, MAX_POINTS, bucket=self._bucket) if count else []
        # In the same order, the same objects get the same places.
        entries.sort(key=lambda entry: entry.uri)
        points = project(np.stack([entry.vector for entry in entries])) if entries else np.empty((0, 2))
        places = np.round(points.astype(np.float64), DIGITS).tolist()
        made = [_point(entry, x, y) for entry, (x, y) in zip(entries, places, strict=True)]
        now = time.monotonic()
        pause = max(MIN_PAUSE, (now - started) / TIME_SHARE)
        self._kept = _Map(space, made, count, replacements, now, now + pause)
        return self._kept


def answer_map(
    context: RequestContext, searcher: Searcher, collection_map: CollectionMap
) -> Mapping[str, Any]:
    """As `schema.MapReply` has it."""
    space = context.runtime.default_model().manifest.space
    with context.timings.measure("search"):
        current = collection_map.get(space)
        notice = None if current.points else searcher.empty_notice(space)
    return {"points": current.points, "count": current.count, "space": space, "notice": notice}


def _is_outdated(kept: _Map, count: int, replacements: int) -> bool:
    now = time.monotonic()
    has_changed = (count, replacements) != (kept.count, kept.replacements)
    return now >= kept.next and (has_changed or now > kept.made + MAX_AGE)


def _in_background(make: Callable[[], _Map], lock: threading.Lock) -> _Map:
    """What `make` returns, in a thread of low priority that releases `lock` at its end.

    Raises:
        TimeoutError: it takes longer than WAIT_SECONDS, and goes on.
    """
    done = threading.Event()
    made: list[_Map] = []
    failed: list[Exception] = []

    def work() -> None:
        try:
            made.append(make())
        except Exception as error:
            failed.append(error)
        finally:
            lock.release()
            done.set()

    try:
        BackgroundThread("map", work).start()
    except RuntimeError:
        # There are too many threads. The next request tries again.
        lock.release()
        raise
    if not done.wait(WAIT_SECONDS):
        raise TimeoutError
    if failed:
        raise failed[0]
    return made[0]


def _pending() -> ApiError:
    message = "The map is being made; ask again in a moment."
    return ApiError(503, "map_pending", message, retry_after=2)


def _point(entry: Entry, x: float, y: float) -> Mapping[str, Any]:
    return {
        "uri": entry.uri,
        "generation": entry.generation,
        "x": x,
        "y": y,
        "thumbnail": thumbnail_path(entry),
        "label": next(iter(entry.labels), None),
    }
