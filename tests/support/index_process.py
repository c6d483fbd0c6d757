"""A user of an index in a process of its own.

    write URL WRITER ROWS DIMENSIONS      add the rows of one writer, a few at a time
    search URL SPACE_DIMENSIONS           search until the standard input ends; then say how often

Both fail on any error, and the searcher on any answer that is not right.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

from clip_embeddings.index.factory import open_index
from tests.support.entries import direction, entry

BATCH = 16


def main() -> None:
    kind, url, *rest = sys.argv[1:]
    if kind == "write":
        write(url, rest[0], int(rest[1]), int(rest[2]))
    else:
        search(url, int(rest[0]))


def row_name(writer: str, number: int) -> str:
    return f"{writer}/{number:06}"


def write(url: str, writer: str, rows: int, dimensions: int) -> None:
    index = open_index(url)
    for start in range(0, rows, BATCH):
        names = [row_name(writer, number) for number in range(start, min(rows, start + BATCH))]
        written = index.upsert([entry(name, vector=direction(name, dimensions)) for name in names])
        assert all(written), written


def search(url: str, dimensions: int) -> None:
    index = open_index(url)
    stopped = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
    queries = rows = 0
    while not stopped.is_set():
        query = direction(f"query {queries}", dimensions)
        hits = index.query(query, "s", 5)
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True), scores
        own = [float(direction(hit.entry.name, dimensions) @ query) for hit in hits]
        assert np.allclose(scores, own, atol=1e-5), (scores, own)
        count = index.count("s")
        assert count >= rows, "rows were lost"
        queries, rows = queries + 1, count
    print(queries)


if __name__ == "__main__":
    main()
