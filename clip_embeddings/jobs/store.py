"""Jobs as objects of a bucket: each request is kept once, and each result is written once.

`<id>/request.json` is what the client sent. `<id>/attempts/<n>` is created before each run.
`<id>/result.json` is the reply to a poll: a line `{"headers": {...}}` with its response headers, which
older versions did not write, and then the body, byte for byte. Creating it finishes the job; only the first
creation succeeds, so the outcome never changes. No object is ever overwritten.
"""

from __future__ import annotations

import re
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import orjson

from clip_embeddings.storage.types import JSON, Bucket, NotFoundError, Stat, StorageError

UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
REQUEST_NAME = re.compile(rf"({UUID4})/request\.json")
# How the line with the headers begins. A body never begins like this.
HEADERS_LINE = b'{"headers":'


@dataclass(frozen=True)
class JobOutput:
    """What a job made."""

    # JSON values and numpy arrays.
    result: object
    # Response headers of every poll that returns the result.
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JobReply:
    """The reply to a poll."""

    # A JSON document: `status`, `result` if the job is complete, `error` if it failed.
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JobStore:
    """The jobs in a bucket. Methods raise TransientError and StorageError as the bucket does.

    Knowing a job's id is the only permission to read it. So an unknown id and a malformed one get the same
    reply.
    """

    bucket: Bucket
    # Seconds until a job expires. In the cloud the bucket's lifecycle rule must not remove it before.
    ttl: float = 86_400
    # Seconds after which an unfinished job counts as failed. Less than `ttl`.
    deadline: float = 3_600
    # Number of runs after which an unfinished job counts as failed. A bucket may deliver every event twice.
    attempts: int = 8

    def submit(self, request: Mapping[str, Any]) -> str:
        """Store a new job's request durably; returns the job's id, which is a secret."""
        job_id = str(uuid.uuid4())
        if not self.bucket.create(f"{job_id}/request.json", orjson.dumps(request), JSON):
            raise StorageError("A new job's id is taken.")
        return job_id

    def reply(self, job_id: str) -> JobReply | None:
        """The reply to a poll of a job; None if it is unknown.

        Neither reads the request nor parses the result. Can be called any number of times. A job past its
        deadline is finished as failed by this call.
        """
        if not is_job_id(job_id):
            return None
        if (result := self._result(job_id)) is not None:
            return result
        if not self._is_open(job_id):
            return self._result(job_id)
        running = self.bucket.stat(f"{job_id}/attempts/1") is not None
        # Without `result`: clients that were generated from the original's OpenAPI document fail on null.
        return JobReply(orjson.dumps({"status": "running" if running else "starting"}))

    def pending(self, job_id: str) -> bool:
        """Whether the job can still be finished. Finishes a job past its deadline as failed."""
        return (
            is_job_id(job_id) and self.bucket.stat(f"{job_id}/result.json") is None and self._is_open(job_id)
        )

    def read_request(self, job_id: str) -> dict[str, Any]:
        """What the client sent. Raises NotFoundError, or ValueError if it is not a JSON object."""
        request = orjson.loads(self.bucket.read(f"{job_id}/request.json")[0])
        if not isinstance(request, dict):
            raise ValueError("the request is no JSON object")
        return request

    def record_attempt(self, job_id: str) -> bool:
        """Record durably that a run begins; False if there were `attempts` already, and none must begin."""
        return any(
            self.bucket.create(f"{job_id}/attempts/{number}", b"") for number in range(1, self.attempts + 1)
        )

    def forget_attempt(self, job_id: str) -> None:
        """Take back the last attempt, of a run that is interrupted by the end of its process.

        For a run that holds the job's lock, so that the attempt is its own.
        """
        for number in range(self.attempts, 0, -1):
            if self.bucket.delete(f"{job_id}/attempts/{number}"):
                return

    def finish(self, job_id: str, output: JobOutput) -> bool:
        """Finish a job as complete; False if it was finished already, which is not changed."""
        return self._finish(job_id, {"status": "complete", "result": output.result}, output.headers)

    def fail(self, job_id: str, code: str, message: str) -> bool:
        """Finish a job as failed; False if it was finished already, which is not changed."""
        error = {"code": code, "message": message}
        return self._finish(job_id, {"status": "failed", "error": error})

    def try_lock(self, job_id: str) -> AbstractContextManager[bool]:
        """Try to lock a job for the block, within this machine. Always True in the cloud. See Bucket."""
        return self.bucket.try_lock(f"{job_id}/request.json")

    def unfinished(self) -> list[str]:
        """The ids of jobs without a result: first those never run, then by age. For local buckets."""
        names = set(self.bucket.names())
        waiting = []
        for name in names:
            job_id = job_id_of(name)
            if job_id and f"{job_id}/result.json" not in names and (stat := self.bucket.stat(name)):
                # A job that crashes its process every time must not delay those that were never run.
                waiting.append((f"{job_id}/attempts/1" in names, stat.updated, job_id))
        return [job_id for _, _, job_id in sorted(waiting)]

    def sweep(self) -> int:
        """Remove expired jobs, and files of dead writers; returns how many jobs. For local buckets."""
        self.bucket.cleanup()
        names_by_job = defaultdict(list)
        for name in self.bucket.names():
            if is_job_id(job_id := name.partition("/")[0]):
                names_by_job[job_id].append(name)
        expired = [names for names in names_by_job.values() if self._is_expired(names)]
        for names in expired:
            # The request first: a job that has lost its result, but not its request, would be run again.
            for name in sorted(names, key=lambda name: job_id_of(name) is None):
                self.bucket.delete(name)
        return len(expired)

    def _is_open(self, job_id: str) -> bool:
        """Whether a job without a result exists and is in time. Finishes it if it is past its deadline."""
        request = self.bucket.stat(f"{job_id}/request.json")
        age = _age(request) if request else self.ttl
        # A lifecycle rule may remove a result before its request. That job has expired; it did not fail.
        if age >= self.ttl:
            return False
        if age > self.deadline:
            message = f"Nobody finished the job within {self.deadline:,.0f} seconds."
            self.fail(job_id, "job_timeout", message)
            return False
        return True

    def _result(self, job_id: str) -> JobReply | None:
        try:
            data = self.bucket.read(f"{job_id}/result.json")[0]
        except NotFoundError:
            return None
        if not data.startswith(HEADERS_LINE):
            return JobReply(data)
        line, _, body = data.partition(b"\n")
        return JobReply(body, orjson.loads(line)["headers"])

    def _finish(self, job_id: str, body: Mapping[str, Any], headers: Mapping[str, str] = {}) -> bool:
        line = orjson.dumps({"headers": headers}, option=orjson.OPT_APPEND_NEWLINE)
        document = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        return self.bucket.create(f"{job_id}/result.json", line + document, JSON)

    def _is_expired(self, names: list[str]) -> bool:
        # The newest object decides. Objects that were removed meanwhile do not count.
        stats = [stat for name in names if (stat := self.bucket.stat(name))]
        return all(_age(stat) >= self.ttl for stat in stats)


def _age(stat: Stat) -> float:
    # After the clock was set back an object is from the future. The absolute value lets it expire, too.
    return abs(time.time() - stat.updated)


def is_job_id(text: str) -> bool:
    """Whether this has the form of a job's id."""
    return re.fullmatch(UUID4, text) is not None


def job_id_of(name: str) -> str | None:
    """The id in the name of a request's object; None for every other name."""
    match = REQUEST_NAME.fullmatch(name)
    return match[1] if match else None


def short_id(job_id: str) -> str:
    """The part of an id that may be logged, because the whole id is a secret."""
    return job_id[:8]
