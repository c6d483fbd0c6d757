"""How the replies of a search are written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from clip_embeddings.index.types import Entry, Hit, object_uri
from clip_embeddings.search.closeness import Noise
from clip_embeddings.search.compose import Composition
from clip_embeddings.search.paging import Page

# Digits after the point: float32 has no more of a cosine.
DIGITS = 6


def write(
    page: Page,
    *,
    cursor: str | None,
    noise: Noise | None,
    composition: Composition | None,
    model: str | None,
    space: str,
    notice: str | None,
) -> Mapping[str, Any]:
    """As `schema.SearchReply` has it."""
    is_close = noise is None or (page.best_score is not None and page.best_score >= noise.threshold)
    return {
        "results": [_result(hit, noise, composition) for hit in page.hits],
        "cursor": cursor,
        "complete": page.is_complete,
        "threshold": None if noise is None else round(noise.threshold, DIGITS),
        "nothing_close": not is_close,
        "model": model,
        "space": space,
        "notice": notice,
    }


def _result(hit: Hit, noise: Noise | None, composition: Composition | None) -> Mapping[str, Any]:
    score = float(hit.score)
    closeness = noise.closeness(score) if noise else min(1.0, max(0.0, score))
    shares = composition.shares(hit.entry.vector) if composition else None
    return {
        **write_object(hit.entry),
        "score": round(score, DIGITS),
        "closeness": round(closeness, 3),
        "parts": shares and {part: round(share, DIGITS) for part, share in shares.items()},
    }


def write_object(entry: Entry) -> Mapping[str, Any]:
    """As `schema.Object` has it."""
    return {
        "uri": entry.uri,
        "generation": entry.generation,
        "content_type": entry.content_type,
        "size": entry.size,
        "updated": entry.updated.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "labels": {label: round(float(value), DIGITS) for label, value in entry.labels.items()},
        "metadata": dict(entry.metadata),
        "thumbnail": thumbnail_path(entry),
    }


def thumbnail_path(entry: Entry) -> str:
    """The path of an object's small picture.

    It contains the generation, because JavaScript cannot represent the large ones of files exactly.
    """
    return f"/thumbnail?uri={_quoted_uri(entry)}&generation={entry.generation}"


def _quoted_uri(entry: Entry) -> str:
    return _quoted(object_uri(entry.bucket, "")) + quote(entry.name, safe="")


@lru_cache(8)
def _quoted(text: str) -> str:
    """`text` in a query string. All results of a reply begin with the same bucket, often a long path."""
    return quote(text, safe="")
