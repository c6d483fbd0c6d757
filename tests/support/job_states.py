"""A job's state, as a poll's reply has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from clip_embeddings.jobs.store import JobStore


@dataclass(frozen=True)
class JobState:
    """`status` is starting, running, complete or failed."""

    status: str
    result: Any = None
    # With status failed: `code` and `message`.
    error: Mapping[str, Any] | None = None


def read_state(store: JobStore, job_id: str) -> JobState | None:
    """The state in the reply to a poll; None if the job is unknown."""
    if (reply := store.reply(job_id)) is None:
        return None
    document = orjson.loads(reply.body)
    return JobState(document["status"], document.get("result"), document.get("error"))
