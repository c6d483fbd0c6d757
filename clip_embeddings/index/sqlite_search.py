"""Searches and samples of an index in SQLite: a matrix scores the vectors, the file filters the entries."""

from __future__ import annotations

import json
import random
import sqlite3
from dataclasses import dataclass
from itertools import islice

import numpy as np

from clip_embeddings.index.matrix import Matrix
from clip_embeddings.index.sqlite_rows import COLUMNS, filter_condition, to_entry
from clip_embeddings.index.types import EVERYTHING, Entry, Filter, Hit

# Rows that are copied into a matrix at once.
PAGE_SIZE = 1000

# Of the best, so many times k are looked at one by one for those that match a filter, but no more than
# MOST_LOOKED_AT: then all entries that match are listed, which takes as long as looking at a few thousand.
OVERFETCH, MOST_LOOKED_AT = 10, 2000

# A sample draws ids until it has enough, so many times, each time so many more than it needs.
DRAWS, DRAWN_MORE = 3, 1.2


@dataclass(frozen=True)
class Search:
    """One query of an index: see Index.query."""

    space: str
    k: int
    where: Filter = EVERYTHING
    min_score: float | None = None
    with_vectors: bool = False


def nearest(connection: sqlite3.Connection, matrix: Matrix, scores: np.ndarray, search: Search) -> list[Hit]:
    """The best of a matrix's `scores` among the entries that match, best first."""
    k, min_score = search.k, search.min_score
    if search.where == EVERYTHING:
        return _hits(connection, matrix.best(scores, k, min_score), search)
    most = max(k, min(OVERFETCH * k, MOST_LOOKED_AT))
    candidates = matrix.best(scores, most, min_score)
    hits = (_hit(connection, id_, score, search) for id_, score in candidates)
    matching = list(islice((hit for hit in hits if search.where.matches(hit.entry)), k))
    if len(matching) == k or len(candidates) < most:
        return matching
    ids = _matching_ids(connection, search)
    return _hits(connection, matrix.best(scores, k, min_score, ids), search)


def refresh(matrix: Matrix, connection: sqlite3.Connection, space: str) -> None:
    """Read into the matrix the changes since its last refresh, or all rows if removals may be missing."""
    version, swept = connection.execute("SELECT version, swept FROM state").fetchone()
    if matrix.version < swept or not matrix.version:
        matrix.clear()
    if matrix.version == version:
        return
    if matrix.version:
        removed = connection.execute(
            "SELECT id FROM entries WHERE version > ? AND space IS NOT ?", (matrix.version, space)
        )
        matrix.remove(id_ for (id_,) in removed)
    else:
        (count,) = connection.execute("SELECT count(*) FROM entries WHERE space = ?", (space,)).fetchone()
        matrix.reserve(count)
    rows = connection.execute(
        "SELECT id, vector FROM entries WHERE space = ? AND version > ? ORDER BY version, id",
        (space, matrix.version),
    )
    while page := rows.fetchmany(PAGE_SIZE):
        matrix.put([id_ for id_, _ in page], b"".join(vector for _, vector in page))
    matrix.version = version


def sample(connection: sqlite3.Connection, space: str, count: int, bucket: str | None) -> list[Entry]:
    """See Index.sample."""
    (last_id,) = connection.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()
    condition = "space = ?" if bucket is None else "space = ? AND bucket = ?"
    parameters = (space,) if bucket is None else (space, bucket)
    drawn: dict[int, Entry] = {}
    for _ in range(DRAWS):
        ids = random.sample(range(1, last_id + 1), min(last_id, int(DRAWN_MORE * count)))
        drawn |= _entries(connection, ids, condition, parameters)
        if len(drawn) >= count or len(ids) == last_id:
            break
    else:
        # Most ids are those of others.
        select = (
            f"SELECT id FROM entries INDEXED BY by_name WHERE {condition} ORDER BY random() LIMIT {count:d}"
        )
        ids = [id_ for (id_,) in connection.execute(select, parameters)]
        drawn = _entries(connection, ids, condition, parameters)
    return random.sample(list(drawn.values()), min(count, len(drawn)))


def _entries(
    connection: sqlite3.Connection, ids: list[int], condition: str, parameters: tuple[str, ...]
) -> dict[int, Entry]:
    select = (
        f"SELECT id, {COLUMNS}, vector FROM entries"
        f" WHERE id IN (SELECT value FROM json_each(?)) AND {condition}"
    )
    rows = connection.execute(select, (json.dumps(ids), *parameters))
    return {id_: to_entry(*row) for id_, *row in rows}


def _matching_ids(connection: sqlite3.Connection, search: Search) -> list[int]:
    condition, parameters = filter_condition(search.where)
    select = f"SELECT id FROM entries INDEXED BY by_name WHERE space = ? AND {condition}"
    return [id_ for (id_,) in connection.execute(select, (search.space, *parameters))]


def _hits(connection: sqlite3.Connection, scored: list[tuple[int, float]], search: Search) -> list[Hit]:
    return [_hit(connection, id_, score, search) for id_, score in scored]


def _hit(connection: sqlite3.Connection, id_: int, score: float, search: Search) -> Hit:
    vector = "vector" if search.with_vectors else "x''"
    row = connection.execute(f"SELECT {COLUMNS}, {vector} FROM entries WHERE id = ?", (id_,)).fetchone()
    return Hit(to_entry(*row), score)
