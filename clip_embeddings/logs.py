"""Logging: JSON lines with the trace in the cloud, plain lines elsewhere; and the timings of a request."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from werkzeug.datastructures import Headers

logger = logging.getLogger("clip_embeddings")

# Seconds between two lines that say how far a long piece of work is.
LOG_SECONDS = 30.0

# A hexadecimal digit and a separator, plain or percent-encoded any number of times.
_DIGIT = r"(?:[0-9a-f]|%(?:25)*(?:3[0-9]|[46][1-6]))"
_SEPARATOR = r"(?:[-_ +]|%(?:25)*(?:2d|5f|20))"
# What looks like a job's id, or most of one: a UUID in any spelling. A path's words are shorter.
ID = re.compile(rf"{_DIGIT}(?:{_DIGIT}|{_SEPARATOR}){{14,}}", re.IGNORECASE)


def setup_logging(level: str, *, in_cloud: bool) -> None:
    """Send this package's log to standard error. Repeated calls only change the level."""
    logger.setLevel(level)
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(CloudFormatter() if in_cloud else PlainFormatter())
    logger.addHandler(handler)
    logger.propagate = False
    # Its lines about requests that fail outside of this package hold their URLs.
    logging.getLogger("gunicorn.error").addFilter(_mask_record)


def mask_ids(text: str) -> str:
    """`text` without the ids of jobs, which are secrets: whoever has one can read the job's result."""
    return ID.sub("...", text)


def _mask_record(record: logging.LogRecord) -> bool:
    """Mask the ids in a record of another package; True, so that it is logged."""
    record.msg, record.args = mask_ids(record.getMessage()), None
    return True


class PlainFormatter(logging.Formatter):
    """`12:00:00 INFO embed_text POST /embed/text 200 items=2 model=7.1ms`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        fields: Mapping[str, object] = getattr(record, "fields", {})
        text = super().format(record)
        return " ".join([text, *(f"{key}={value}" for key, value in fields.items() if key != TRACE)])


class CloudFormatter(logging.Formatter):
    """One JSON object per line, as Cloud Logging reads it.

    Special fields: https://cloud.google.com/logging/docs/structured-logging#special-payload-fields
    """

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        fields: Mapping[str, object] = getattr(record, "fields", {})
        return json.dumps({"severity": record.levelname, "message": message, **fields}, default=str)


TRACE = "logging.googleapis.com/trace"


def trace_field(headers: Headers) -> dict[str, str]:
    """The trace of a request, from `traceparent` or `X-Cloud-Trace-Context`, as a log field if it has one."""
    parts = headers.get("traceparent", "").split("-")
    trace = parts[1] if len(parts) == 4 else headers.get("X-Cloud-Trace-Context", "").split("/")[0]
    if not trace.isalnum() or len(trace) > 64:
        return {}
    project = os.environ.get("GOOGLE_CLOUD_PROJECT")
    return {TRACE: f"projects/{project}/traces/{trace}" if project else trace}


class Timings:
    """Counts of one request, and its time by stage. Times of parallel threads add up."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._stages: dict[str, float] = {}
        self._lock = threading.Lock()
        # Number of items in the request, and the error codes of those that failed.
        self.items = 0
        self.failures: list[str] = []

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of the `with` block to `stage`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def add(self, stage: str, seconds: float) -> None:
        """Add `seconds` to `stage`."""
        with self._lock:
            self._stages[stage] = self._stages.get(stage, 0.0) + seconds * 1000

    def milliseconds(self) -> dict[str, float]:
        """The time of every stage so far and the `total` since the start, rounded to 0.1 ms."""
        total = (time.perf_counter() - self._started) * 1000
        return {stage: round(value, 1) for stage, value in {**self._stages, "total": total}.items()}

    def header(self) -> str:
        """The value of a `Server-Timing` header (https://www.w3.org/TR/server-timing/)."""
        return ", ".join(f"{stage};dur={value}" for stage, value in self.milliseconds().items())
