"""Uses an index in a process of its own.

    write URL WRITER ROWS DIMENSIONS      add the rows of one writer, a few at a time
    search URL SPACE_DIMENSIONS           search until the standard input ends; then print how often

Both fail on any error, and the search on any wrong result.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

from clip_embeddings.index.factory import open_index
from tests.support.entries import direction, entry

BATCH = 16


def main() -> None:
    command, url, *arguments = sys.argv[1:]
    if command == "write":
        write(url, arguments[0], int(arguments[1]), int(arguments[2]))
    else:
        search(url, int(arguments[0]))


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

    def wait_for_end_of_input() -> None:
        sys.stdin.read()
        stopped.set()

    threading.Thread(target=wait_for_end_of_input, daemon=True).start()
    queries = rows = 0
    while not stopped.is_set():
        query = direction(f"query {queries}", dimensions)
        hits = index.query(query, "s", 5).hits
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True), scores
        expected = [float(direction(hit.entry.name, dimensions) @ query) for hit in hits]
        assert np.allclose(scores, expected, atol=1e-5), (scores, expected)
        count = index.count("s")
        assert count >= rows, "rows were lost"
        queries, rows = queries + 1, count
    print(queries)


if __name__ == "__main__":
    main()
