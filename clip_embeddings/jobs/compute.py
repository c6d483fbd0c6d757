"""The work of a job: from the record that was submitted to the result that is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_embeddings.errors import ApiError
from clip_embeddings.http.provenance import provenance_headers
from clip_embeddings.jobs.store import JobOutput
from clip_embeddings.jobs.tasks import TASKS, Task
from clip_embeddings.logs import Timings
from clip_embeddings.protocols.items import validate
from clip_embeddings.runtime import Runtime


def compute(record: Mapping[str, Any], runtime: Runtime) -> JobOutput:
    """What a submitted record makes: an output, or for a batched job a list of outputs.

    Raises:
        ApiError: the job cannot be done. Of a batched job, an item that fails has its error in the result.
    """
    task, batched = TASKS[record["task"]], record["batched"]
    body = _read_input(task, record["input"], batched)
    items = task.items(body, batched, runtime.settings.jobs.items)
    request = task.request(body, items, record["model"], runtime.settings.limits)
    result = task.compute(request, runtime, Timings(), background=True)
    return JobOutput(task.write(result, batched), provenance_headers(result))


def _read_input(task: Task, stored: Mapping[str, Any], batched: bool) -> Any:
    """The input struct of a stored body. Raises ApiError 422."""
    try:
        return validate(stored, task.inputs[batched])
    except ApiError as error:
        raise ApiError(422, error.code, error.message, where=error.where) from None
