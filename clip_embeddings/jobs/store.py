"""Jobs as objects of a bucket: what was asked for, once, and what came of it, once.

`<id>/request.json` is what the client sent. `<id>/attempts/<n>` is created before each run.
`<id>/result.json` is what a poll answers, byte for byte: whoever creates it first has finished the job, for
good. No object is ever overwritten.
"""

from __future__ import annotations

import re
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import orjson

from clip_embeddings.storage.types import JSON, Bucket, NotFoundError, Stat, StorageError

UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
REQUEST = re.compile(rf"({UUID4})/request\.json")


@dataclass(frozen=True)
class JobState:
    """What became of a job: `status` is starting, running, complete or failed."""

    status: str
    result: Any = None
    # With status failed: `code` and `message`.
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class JobStore:
    """The jobs in a bucket. Methods raise TransientError and StorageError as the bucket does.

    An id is the only key to its job: an unknown one, and what is no id at all, is answered alike.
    """

    bucket: Bucket
    # Seconds until a job is forgotten. In the cloud the bucket's lifecycle rule must not be quicker.
    ttl: float = 86_400
    # Seconds after which a job that nobody finished counts as failed. Less than `ttl`.
    deadline: float = 3_600
    # Runs after which a job that ended none of them counts as failed. Every event of a bucket may come twice.
    attempts: int = 8

    def submit(self, request: Mapping[str, Any]) -> str:
        """Keep a request durably, to be run by whoever runs jobs; returns the job's id, which is a secret."""
        job = str(uuid.uuid4())
        if not self.bucket.create(f"{job}/request.json", orjson.dumps(request), JSON):
            raise StorageError("A new job's id is taken.")
        return job

    def reply(self, job: str) -> bytes | None:
        """The JSON document of a job's state: `status`, `result`, and `error` if it failed; None if unknown.

        Reads no request, and does not parse the result. Reading consumes nothing. A job past its deadline is
        finished as failed by this.
        """
        if not is_id(job):
            return None
        if (result := self._result(job)) is not None:
            return result
        if not self._open(job):
            return self._result(job)
        running = self.bucket.stat(f"{job}/attempts/1") is not None
        return orjson.dumps({"status": "running" if running else "starting", "result": None})

    def read(self, job: str) -> JobState | None:
        """A job's state, as `reply` has it; None if unknown."""
        if (reply := self.reply(job)) is None:
            return None
        found = orjson.loads(reply)
        return JobState(found["status"], found.get("result"), found.get("error"))

    def pending(self, job: str) -> bool:
        """Whether the job may still be finished. A job past its deadline is finished as failed by this."""
        return is_id(job) and self.bucket.stat(f"{job}/result.json") is None and self._open(job)

    def request(self, job: str) -> dict[str, Any]:
        """What the client sent. Raises NotFoundError, or ValueError if it is no JSON object."""
        request = orjson.loads(self.bucket.read(f"{job}/request.json")[0])
        if not isinstance(request, dict):
            raise ValueError("the request is no JSON object")
        return request

    def attempt(self, job: str) -> bool:
        """Note durably that a run begins; False, and no run must begin, if there were too many."""
        return any(
            self.bucket.create(f"{job}/attempts/{number}", b"") for number in range(1, self.attempts + 1)
        )

    def finish(self, job: str, result: object) -> bool:
        """Finish a job as complete with `result` (JSON values and numpy arrays). False: it is finished."""
        return self._finish(job, {"status": "complete", "result": result})

    def fail(self, job: str, code: str, message: str) -> bool:
        """Finish a job as failed. False: it is finished already, and stays as it is."""
        error = {"code": code, "message": message}
        return self._finish(job, {"status": "failed", "result": None, "error": error})

    def try_lock(self, job: str) -> AbstractContextManager[bool]:
        """Whether nobody else on this machine runs the job, for the block. Always True in the cloud."""
        return self.bucket.try_lock(f"{job}/request.json")

    def unfinished(self) -> list[str]:
        """The ids of jobs without a result: those never run come first, then the oldest. For local use."""
        names = set(self.bucket.names())
        waiting = []
        for name in names:
            job = job_of(name)
            if job and f"{job}/result.json" not in names and (found := self.bucket.stat(name)):
                # A job that crashes its process whenever it runs holds up none that could be done.
                waiting.append((f"{job}/attempts/1" in names, found.updated, job))
        return [job for _, _, job in sorted(waiting)]

    def sweep(self) -> int:
        """Remove expired jobs, and what dead writers left; returns how many jobs. For local use."""
        self.bucket.cleanup()
        jobs = defaultdict(list)
        for name in self.bucket.names():
            if is_id(job := name.partition("/")[0]):
                jobs[job].append(name)
        expired = [names for names in jobs.values() if self._expired(names)]
        for names in expired:
            # The request first: without it, a job whose result is gone is not run again.
            for name in sorted(names, key=lambda name: job_of(name) is None):
                self.bucket.delete(name)
        return len(expired)

    def _open(self, job: str) -> bool:
        """Whether a job without a result is there and in time. One past its deadline is finished here."""
        request = self.bucket.stat(f"{job}/request.json")
        age = _age(request) if request else self.ttl
        # A lifecycle rule may remove a result before its request. That job is forgotten, not failed.
        if age >= self.ttl:
            return False
        if age > self.deadline:
            self.fail(job, "job_timeout", f"Nobody finished the job within {self.deadline:,.0f} seconds.")
            return False
        return True

    def _result(self, job: str) -> bytes | None:
        try:
            return self.bucket.read(f"{job}/result.json")[0]
        except NotFoundError:
            return None

    def _finish(self, job: str, state: Mapping[str, Any]) -> bool:
        document = orjson.dumps(state, option=orjson.OPT_SERIALIZE_NUMPY)
        return self.bucket.create(f"{job}/result.json", document, JSON)

    def _expired(self, names: list[str]) -> bool:
        # What changed least long ago decides. What is gone meanwhile is not counted.
        found = [stat for name in names if (stat := self.bucket.stat(name))]
        return all(_age(stat) >= self.ttl for stat in found)


def _age(stat: Stat) -> float:
    # If the clock was put back since, the object is from the future; it must come to an end, too.
    return abs(time.time() - stat.updated)


def is_id(job: str) -> bool:
    """Whether this has the form of a job's id."""
    return re.fullmatch(UUID4, job) is not None


def job_of(name: str) -> str | None:
    """The id in the name of a request's object; None for every other name."""
    found = REQUEST.fullmatch(name)
    return found[1] if found else None


def short(job: str) -> str:
    """As much of an id as a log may hold."""
    return job[:8]
