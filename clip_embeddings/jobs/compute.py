"""The work of a job: from the record that was submitted to the result that is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_embeddings.embedding import embed
from clip_embeddings.http.provenance import provenance_headers
from clip_embeddings.jobs.schema import TASKS, make_request, read_items, write_result
from clip_embeddings.jobs.store import JobOutput
from clip_embeddings.logs import Timings
from clip_embeddings.runtime import Runtime


def compute(record: Mapping[str, Any], runtime: Runtime) -> JobOutput:
    """What a submitted record makes: an output, or for a batched job a list of outputs.

    Raises:
        ApiError: the job cannot be done. Of a batched job, an item that fails has its error in the result.
    """
    tower, batched = TASKS[record["task"]], record["batched"]
    items = read_items(record["input"], tower, batched, runtime.settings.jobs.items)
    embed_request = make_request(items, tower, record["model"], runtime.settings.limits)
    result = embed(embed_request, runtime, Timings(), background=True)
    return JobOutput(write_result(result, batched), provenance_headers(result))
