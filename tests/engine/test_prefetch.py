"""Reading ahead: what is read, and when."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from clip_embeddings.engine import prefetch
from clip_embeddings.engine.manifest import ModelFile, load_manifest
from tests.support.models import DEMO, copy_demo, edit_manifest
from tests.support.waiting import eventually


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, int]]:
    """The files and offsets that are read ahead, in the order of the reads."""
    seen: list[tuple[Path, int]] = []
    read = prefetch._read

    def noted(path: Path, offset: int, buffer: bytearray) -> None:
        read(path, offset, buffer)
        seen.append((path, offset))

    monkeypatch.setattr(prefetch, "_read", noted)
    return seen


def _prefetching() -> bool:
    return any(thread.name == "prefetch" for thread in threading.enumerate())


def test_on_slow_storage_everything_but_the_table_is_read_once(
    reads: list[tuple[Path, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(prefetch, "SLOW", -1.0)
    piece = prefetch.PIECE
    (tmp_path / "weights").write_bytes(bytes(10 * piece + 5))

    prefetch.prefetch(
        tmp_path, [ModelFile("weights", 10 * piece + 5, "", (2 * piece, 3 * piece)), ModelFile("gone", 1, "")]
    )
    eventually(lambda: not _prefetching())

    of_weights = sorted(offset // piece for path, offset in reads if path.name == "weights")
    assert of_weights == [0, 1, 5, 6, 7, 8, 9, 10]
    assert len(set(reads)) == len(reads)
    others = {path.name for path, _ in reads}
    assert any(name.startswith("onnxruntime_pybind11_state") for name in others)
    assert any(name.startswith("libscipy_openblas") for name in others)


def test_storage_that_answers_quickly_is_left_to_the_system(
    reads: list[tuple[Path, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "SLOW", 60.0)
    prefetch.prefetch(DEMO, load_manifest(DEMO, ("text",)).towers["text"].files)

    assert not _prefetching()
    assert reads == []


def test_a_model_baked_before_tables_were_recorded_has_none(tmp_path: Path) -> None:
    folder = copy_demo(tmp_path / "model")
    edit_manifest(
        folder,
        lambda manifest: [
            file.pop("table") for tower in manifest["towers"].values() for file in tower["files"]
        ],
    )

    files = load_manifest(folder, ("text", "image")).towers["text"].files
    assert [file.table for file in files] == [None, None, None]
    (with_table,) = (file for file in load_manifest(DEMO).towers["text"].files if file.table)
    begin, size = with_table.table or (0, 0)
    assert with_table.path == "text.data"
    # 49,408 tokens of 128 numbers of one byte.
    assert (begin + size <= with_table.bytes, size) == (True, 49408 * 128)
