"""What can be searched: how many objects, by which model, with which labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_embeddings.errors import ApiError
from clip_embeddings.http.routing import RequestContext
from clip_embeddings.search.searcher import Searcher

# Labels of one reply: the most frequent ones.
MAX_LABELS = 100
# Seconds after which labels are counted again.
LABELS_AGE = 30.0


def answer_collection(context: RequestContext, searcher: Searcher) -> Mapping[str, Any]:
    """As `schema.CollectionReply` has it."""
    runtime = context.runtime
    manifest = runtime.default_model().manifest
    with context.timings.measure("search"):
        count = searcher.index.count(manifest.space)
        sample = searcher.samples.get(manifest.space, max_age=LABELS_AGE) if count else None
        try:
            notice = searcher.empty_notice(manifest.space)
        except ApiError as error:
            notice = error.message
    is_sampled = sample is not None and not sample.is_everything
    factor = count / len(sample.vectors) if sample and is_sampled else 1.0
    counts = sorted(sample.labels.items(), key=lambda item: (-item[1], item[0])) if sample else []
    return {
        "count": count,
        "model": manifest.name,
        "space": manifest.space,
        "labels": [{"label": label, "count": round(n * factor)} for label, n in counts[:MAX_LABELS]],
        "sampled": is_sampled,
        "originals": runtime.settings.photos.originals,
        "notice": notice or searcher.model_notice,
    }
