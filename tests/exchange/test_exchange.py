"""Moving entries between indexes by files: what comes out goes in, and finds the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from clip_embeddings import load
from clip_embeddings.exchange.formats import FORMATS
from clip_embeddings.index import postgres_search
from clip_embeddings.index.registry import BACKENDS
from clip_embeddings.index.types import Entry, Index
from tests.support.entries import direction, entry
from tests.support.indexes import EMPTY_INDEX_URLS, opened_index
from tests.support.serving import ROOT, environment

needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
EVERY_FORMAT = [pytest.param(name, marks=needs_pyarrow if name == "parquet" else ()) for name in FORMATS]


def command(module: str, *arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m clip_embeddings.MODULE`."""
    emulator = {name: os.environ[name] for name in ("FIRESTORE_EMULATOR_HOST",) if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", f"clip_embeddings.{module}", *map(str, arguments)],
        cwd=ROOT,
        env=environment({**emulator, "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **settings}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def moved(source: str, target: str, path: Path, *options: str) -> str:
    """Export one index to a file, load it into another; returns what both print."""
    exported = command("export", path, *options, INDEX_URL=source)
    loaded = command("load", path, "--index", target)
    assert (exported.returncode, exported.stderr) == (0, "")
    assert (loaded.returncode, loaded.stderr) == (0, "")
    return exported.stdout + loaded.stdout


@pytest.fixture(params=[backend.scheme for backend in BACKENDS if backend.scheme != "sqlite"])
def other_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty index that is not SQLite."""
    return EMPTY_INDEX_URLS[request.param](request)


@pytest.fixture
def source_url(tmp_path: Path) -> str:
    """The URL of an index in SQLite with 60 entries of one space."""
    url = f"sqlite://{tmp_path}/source.sqlite"
    with opened_index(url) as index:
        odd = {"": "empty", "é\0😀": "x"}
        index.upsert([entry(f"ü '\"\0/{n:03}", 2**62 + n, metadata=odd, size=n) for n in range(60)])
    return url


def contents(index: Index) -> dict[str, tuple[Entry, list[float]]]:
    return {each.uri: (each, each.vector.tolist()) for each in index.entries()}


def test_an_index_moves_out_of_sqlite_and_back(source_url: str, other_url: str, tmp_path: Path) -> None:
    back = f"sqlite://{tmp_path}/back.sqlite"

    assert moved(source_url, other_url, tmp_path / "out.jsonl").splitlines() == [
        f"wrote 60 entries to {tmp_path}/out.jsonl",
        "  s: 60",
        "loaded 60 entries",
    ]
    moved(other_url, back, tmp_path / "back.jsonl")

    with opened_index(source_url) as first, opened_index(other_url) as second, opened_index(back) as third:
        assert contents(first) == contents(second) == contents(third)
        for number in range(5):
            hits = [index.query(direction(f"{number}"), "s", 10).hits for index in (first, second, third)]
            assert [hit.entry for hit in hits[0]] == [hit.entry for hit in hits[1]]
            assert [hit.entry for hit in hits[0]] == [hit.entry for hit in hits[2]]


@pytest.mark.parametrize("format_", EVERY_FORMAT)
def test_every_format_keeps_every_bit(source_url: str, tmp_path: Path, format_: str) -> None:
    target = f"sqlite://{tmp_path}/target.sqlite"

    moved(source_url, target, tmp_path / f"out.{format_}")

    with opened_index(source_url) as first, opened_index(target) as second:
        assert contents(first) == contents(second)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".part")]


def test_loading_again_changes_nothing_and_newer_ones_stay(source_url: str, tmp_path: Path) -> None:
    target = f"sqlite://{tmp_path}/target.sqlite"
    moved(source_url, target, tmp_path / "out.jsonl")
    with opened_index(source_url) as first, opened_index(target) as second:
        one, two, *_ = first.entries()
        second.upsert([replace(one, generation=one.generation + 100, vector=direction("newer"))])
        second.delete(two.bucket, two.name, two.generation)

    again = command("load", tmp_path / "out.jsonl", "--index", target)

    kept = "2 are in the index in a newer generation, or were removed"
    assert again.stdout == f"loaded 58 entries; {kept}\n"
    with opened_index(target) as second:
        assert second.count() == 59
        newer = second.get(one.bucket, one.name)
        assert newer is not None
        assert newer.generation == one.generation + 100


def test_one_space_of_several(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/source.sqlite"
    with opened_index(url) as index:
        index.upsert([entry("a"), entry("b", space="t", vector=direction("b", 3))])

    refused = command("export", tmp_path / "out.npy", "--index", url)
    assert refused.stderr == "export: The index has several spaces: choose one with --space.\n"
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []

    target = f"sqlite://{tmp_path}/target.sqlite"
    moved(url, target, tmp_path / "out.npy", "--space=t")
    assert np.load(tmp_path / "out.npy").shape == (1, 3)
    with opened_index(target) as index:
        assert [each.name for each in index.entries()] == ["b"]


def test_another_fingerprint_is_refused_unless_it_is_meant(source_url: str, tmp_path: Path) -> None:
    target = f"sqlite://{tmp_path}/target.sqlite"
    with opened_index(target) as index:
        index.upsert([entry("other", fingerprint="g")])
    command("export", tmp_path / "out.jsonl", "--index", source_url)

    refused = command("load", tmp_path / "out.jsonl", "--index", target)
    assert refused.returncode == 1
    assert "has the fingerprint f, others of its space have g: other weights made them" in refused.stderr
    with opened_index(target) as index:
        assert index.count() == 1

    assert command("load", tmp_path / "out.jsonl", "--index", target, "--mixed").returncode == 0
    with opened_index(target) as index:
        assert index.count() == 61


ROW = {
    "bucket": "photos",
    "name": "a",
    "generation": 1,
    "content_type": "image/png",
    "size": 5,
    "updated": "2026-05-04T03:02:01+00:00",
    "space": "s",
    "fingerprint": "f",
    "metadata": "{}",
    "vector": [0.6, 0.8],
}
WRONG_ROWS = {
    "not JSON": "Row 2 is not JSON.",
    "[]": "Row 2 is not a JSON object.",
    json.dumps(ROW | {"vector": None}): "Row 2 has a vector whose length is not 1.",
    json.dumps(ROW | {"vector": ["x"]}): "Row 2 has no vector.",
    json.dumps(ROW | {"vector": [0.6, 0.9]}): "Row 2 has a vector whose length is not 1.",
    json.dumps(ROW | {"vector": [1.0]}): "The space 's' has vectors of 2 dimensions; this one has 1.",
    json.dumps(ROW | {"generation": "1"}): "Row 2 has no generation, or not as int.",
    json.dumps(ROW | {"generation": -1}): "An object's generation must be a whole number of at most 63 bits.",
    json.dumps(ROW | {"space": ""}): "Row 2 does not say which space or fingerprint its vector has.",
    json.dumps(ROW | {"updated": "today"}): "Row 2 has a time or metadata that cannot be read.",
    json.dumps(ROW | {"metadata": '{"a": 1}'}): (
        "Row 2 has a time without a zone, or metadata that are not texts."
    ),
}


@pytest.mark.parametrize("line", WRONG_ROWS)
def test_a_wrong_row_is_named(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_text(f"{json.dumps(ROW)}\n{line}\n")

    status = load.main([str(tmp_path / "in.jsonl"), "--index", f"sqlite://{tmp_path}/index.sqlite"])

    assert status == 1
    assert capsys.readouterr() == ("", f"load: {WRONG_ROWS[line]}\n")


@pytest.mark.parametrize(
    ("module", "arguments", "sentence"),
    [
        ("export", ["out.txt", "--index", "sqlite:////x"], "--format must be one of parquet, npy, jsonl"),
        ("export", ["out.npy"], "INDEX_URL is not set"),
        (
            "export",
            ["out.npy", "--index", "postgresql://u:a-word@h/d"],
            "postgresql://u:***@h/d is not valid",
        ),
        ("load", ["/no/such.jsonl", "--index", "sqlite:////tmp/x"], "/no/such.jsonl: No such file"),
        ("load", ["/dev/null", "--format=npy", "--index", "sqlite:////tmp/x"], "null is not a file of "),
    ],
)
def test_a_wrong_command_line_is_told_in_a_sentence(module: str, arguments: list[str], sentence: str) -> None:
    ended = command(module, *arguments)

    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "a-word" not in ended.stderr


def test_a_graph_is_built_once_its_space_is_loaded(
    source_url: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = EMPTY_INDEX_URLS["postgresql"](request)

    moved(source_url, url, tmp_path / "out.jsonl")

    used: list[bool] = []
    by_graph = postgres_search._by_graph

    def recorded(*arguments: object) -> list[object]:
        hits = by_graph(*arguments)  # type: ignore[arg-type]
        used.append(len(hits) == 10)
        return hits  # type: ignore[return-value]

    monkeypatch.setattr(postgres_search, "_by_graph", recorded)
    with opened_index(url) as index:
        assert len(index.query(direction("q"), "s", 10).hits) == 10
        definitions = request.getfixturevalue("postgres").run(
            f"SELECT indexdef FROM pg_indexes WHERE tablename = '{url.rpartition('=')[2]}'"
        )
    assert used == [True]
    assert "hnsw" in str(definitions)
