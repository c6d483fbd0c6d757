"""One page of a search: the results after those that a client has seen, though the index may have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from clip_embeddings.index.types import MAX_RESULTS, Hit, QueryResult
from clip_embeddings.search.cursors import Cursor, hash_uri

# How much the score of the same object may differ between two requests: they may run on different CPUs.
SAME_SCORE = 2e-3
# Scores that differ by less are equal: the rounding of float32.
EQUAL_SCORE = 1e-6


class Page(msgspec.Struct, frozen=True):
    """The results of one page."""

    hits: Sequence[Hit]
    # The best score of all pages; None if nothing matches.
    best_score: float | None
    # How many results the client has seen with this page, and whether there are more.
    rank: int
    has_more: bool
    is_complete: bool


def find_page(
    find: Callable[[int], QueryResult], k: int, last: Cursor | None, without: str | None = None
) -> Page:
    """The `k` results after `last`.

    An index has no cursors, so everything up to the end of the page is asked for again.

    Args:
        find: the nearest entries, as many as it is asked for.
        without: the URI of an object that is no result.
    """
    count = min(MAX_RESULTS, (last.rank if last else 0) + k + 1 + (without is not None))
    result, hits, start = _read(find, count, last, without)
    if last and len(result.hits) == count < MAX_RESULTS and start + k >= len(hits):
        # Entries have come before the page since.
        result, hits, start = _read(find, MAX_RESULTS, last, without)
    page = hits[start : start + k]
    return Page(
        hits=page,
        best_score=hits[0].score if hits else None,
        rank=start + len(page),
        has_more=len(hits) > start + k,
        is_complete=result.is_complete,
    )


def _read(
    find: Callable[[int], QueryResult], count: int, last: Cursor | None, without: str | None
) -> tuple[QueryResult, list[Hit], int]:
    result = find(count)
    hits = [hit for hit in result.hits if hit.entry.uri != without]
    return result, hits, _start(hits, last) if last else 0


def _start(hits: Sequence[Hit], last: Cursor) -> int:
    """The position in `hits` of the first one after `last`."""
    for position, hit in enumerate(hits):
        # One that has a new score since, because the object has changed, says nothing.
        is_near = abs(hit.score - last.score) < SAME_SCORE
        if is_near and hash_uri(hit.entry.uri) == last.uri_hash:
            return position + 1
    # It is gone. Among equal scores, as many are taken to be seen as were.
    higher = sum(hit.score > last.score + EQUAL_SCORE for hit in hits)
    not_lower = sum(hit.score >= last.score - EQUAL_SCORE for hit in hits)
    return min(max(last.rank, higher), not_lower)
