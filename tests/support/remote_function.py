"""BigQuery as the caller of a remote function: batches of rows from many callers at once.

Which requests it repeats: https://cloud.google.com/bigquery/docs/remote-functions, "Output format". Here some
replies are lost, too, and their requests repeated.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

import orjson

# Every other status but 200 fails the query.
REPEATED = frozenset({408, 429, 500, 503, 504})

Rows = Sequence[str | None]


class QueryFailedError(Exception):
    """The function answered with a status that BigQuery does not repeat."""


def run_query(
    url: str,
    context: Mapping[str, str],
    batches: Iterator[Rows],
    check: Callable[[Rows, Sequence[Any]], None],
    *,
    callers: int = 100,
    lost: float = 0.01,
) -> Counter[str]:
    """Call the remote function at `url` with every batch, and `check` the rows and the replies of each.

    Args:
        context: the function's user_defined_context.
        lost: the share of replies that do not arrive: half of them are never read, and half are dropped.

    Returns:
        How many `rows` were answered, how many replies were `lost`, and how often each status came.

    Raises:
        QueryFailedError: the query fails.
    """
    counts: Counter[str] = Counter()
    lock = threading.Lock()
    numbered = enumerate(batches)

    def take() -> tuple[int, Rows] | None:
        with lock:
            return next(numbered, None)

    def call() -> None:
        caller = _Caller(url, context, lost)
        with closing(caller.connection):
            while taken := take():
                number, rows = taken
                replies = caller.replies(number, rows)
                assert len(replies) == len(rows)
                check(rows, replies)
                caller.counts["rows"] += len(rows)
        with lock:
            counts.update(caller.counts)

    with ThreadPoolExecutor(callers) as pool:
        for running in [pool.submit(call) for _ in range(callers)]:
            running.result()
    return counts


class _Caller:
    """One of those that send requests at the same time, over a connection that it keeps."""

    def __init__(self, url: str, context: Mapping[str, str], lost: float) -> None:
        self.path = urlsplit(url).path
        self.connection = HTTPConnection(urlsplit(url).netloc, timeout=120)
        self.context = context
        self.lost = lost
        self.counts: Counter[str] = Counter()

    def replies(self, number: int, rows: Rows) -> Sequence[Any]:
        """The replies to a batch, however often it has to be sent."""
        body = orjson.dumps(
            {
                "requestId": f"{number:x}",
                "caller": "//bigquery.googleapis.com/projects/p/jobs/p:US.bquxjob_5b4c112c_17961fafeaf",
                "sessionUser": "test-user@test-company.com",
                "userDefinedContext": self.context,
                "calls": [[row] for row in rows],
            }
        )
        chance = random.Random(f"batch {number}")
        for attempt in range(1000):
            fate = chance.random() / self.lost
            try:
                data = self._send(body, read=fate > 0.5)
            except (HTTPException, OSError):
                self.connection.close()
                data = None
            if data is not None and fate > 1:
                return orjson.loads(data)["replies"]  # type: ignore[no-any-return]
            if fate <= 1:
                self.counts["lost"] += 1
            else:
                time.sleep(chance.uniform(0, min(0.05 * 2**attempt, 1)))
        raise QueryFailedError(f"batch {number} was never answered")

    def _send(self, body: bytes, *, read: bool) -> bytes | None:
        """What the function answers; None if the request is to be repeated."""
        self.connection.request("POST", self.path, body, {"Content-Type": "application/json"})
        if not read:
            self.connection.close()
            return None
        response = self.connection.getresponse()
        with response:
            data = response.read()
        self.counts[str(response.status)] += 1
        if response.status == 200:
            return data
        if response.status not in REPEATED:
            raise QueryFailedError(f"{response.status}: {data[:200]!r}")
        return None
