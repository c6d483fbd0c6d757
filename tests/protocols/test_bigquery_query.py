"""Whole queries of BigQuery, simulated: many callers at once, lost replies, every row right in the end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_embeddings.engine.model import normalize_rows
from deploy.bigquery_sql import BATCH_ROWS
from tests.support import gcs_server
from tests.support.buckets import write_object
from tests.support.pictures import picture
from tests.support.remote_function import QueryFailedError, Rows, run_query
from tests.support.serving import serving
from tests.support.vectors import raw_images, raw_texts

WORDS = ("cat", "dog", "sun", "cake", "car", "tree", "house", "fish", "star", "moon")
TOO_LONG = "x" * 10_001
# The function's user_defined_context.
TEXT = {"mode": "text", "provenance": "true"}


def batches(rows: int, values: Sequence[str], size: int) -> Iterator[Rows]:
    """`rows` rows in batches: values in random order, with NULLs, and some that have no vector."""
    for start in range(0, rows, size):
        chance = random.Random(f"rows from {start}")
        yield [
            None if number % 50 == 0 else TOO_LONG if number % 1000 == 1 else chance.choice(values)
            for number in range(start, min(start + size, rows))
        ]


def check_against(expected: Mapping[str, np.ndarray], space: str) -> Any:
    """A check of a batch: the vector of each row's own value, and null where there is none."""

    def check(rows: Rows, replies: Sequence[Any]) -> None:
        right = [expected.get(row or "") for row in rows]
        assert [reply is None for reply in replies] == [vector is None for vector in right]
        found = [reply for reply in replies if reply is not None]
        vectors = np.array([reply["vector"] for reply in found], np.float32)
        products = (vectors * np.array([vector for vector in right if vector is not None])).sum(axis=1)
        assert products.min() > 0.99999
        assert {reply["space"] for reply in found} == {space}

    return check


def expected_texts() -> dict[str, np.ndarray]:
    """Texts that differ in the order of their words alone, and vectors that tell them apart."""
    texts = [" ".join(words) for words in permutations(WORDS, 3)]
    vectors = normalize_rows(raw_texts(*texts))
    others = vectors @ vectors.T - 2 * np.eye(len(texts))
    distinct = others.max(axis=1) < 0.9999
    assert distinct.sum() > 500
    return {text: vector for text, vector, kept in zip(texts, vectors, distinct, strict=True) if kept}


def run_texts(rows: int, log: Path) -> Counter[str]:
    """A query over `rows` texts."""
    expected = expected_texts()
    # Fewer may wait than callers come.
    with serving("embed_text", log, MAX_WAITING="16") as server:
        space = server.post("/bigquery", json={"calls": [["a"]]}).headers["Embedding-Space"]
        url = f"{server.url}/bigquery"
        size = BATCH_ROWS["text"]
        check = check_against(expected, space)
        return run_query(url, TEXT, batches(rows, list(expected), size), check)


def test_a_query_over_20_000_texts(log: Path) -> None:
    counts = run_texts(20_000, log)

    assert counts["rows"] == 20_000
    assert counts["lost"] > 0


@pytest.mark.full
def test_a_query_over_a_million_texts(log: Path) -> None:
    counts = run_texts(1_000_000, log)

    print(dict(counts))
    assert counts["rows"] == 1_000_000
    assert counts["lost"] > 100


def test_a_query_over_an_object_table(log: Path) -> None:
    names = ["chelsea", "coffee"]
    files = {
        f"{name} {side}.jpg": picture(name, size=(side, 48)) for name in names for side in range(48, 72, 4)
    }
    vectors = normalize_rows(raw_images(*files.values()))
    with gcs_server.serving() as storage, gcs_server.connected(storage.url, "") as bucket:
        for name, data in files.items():
            write_object(bucket, name, data)
        uris = [f"gs://{gcs_server.BUCKET}/{name}" for name in files]
        expected = dict(zip(uris, vectors, strict=True))
        settings = {"STORAGE_EMULATOR_HOST": storage.url, "ALLOWED_BUCKETS": gcs_server.BUCKET}
        with serving("embed_image", log, **settings) as server:
            url = f"{server.url}/bigquery"
            space = server.post("/bigquery", json={"calls": [[uris[0]]]}).headers["Embedding-Space"]
            counts = run_query(
                url,
                {"mode": "image", "provenance": "true"},
                batches(400, [*uris, f"gs://{gcs_server.BUCKET}/none.jpg"], BATCH_ROWS["image"]),
                check_against(expected, space),
                callers=20,
                lost=0.1,
            )

    assert counts["rows"] == 400
    assert counts["lost"] > 0


def test_a_status_that_bigquery_does_not_repeat_fails_the_query(log: Path) -> None:
    with serving("embed_text", log) as server, pytest.raises(QueryFailedError, match=r"^400: "):
        run_query(
            f"{server.url}/bigquery", {"mode": "video"}, batches(640, WORDS, 64), lambda *_: None, callers=4
        )
