"""What `make bench` could get wrong without anybody noticing: what it counts, and how it draws that."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench import cold_disk, page_cache, slow_disk
from tests.bench.page_cache import PAGE
from tests.bench.start_chart import Bar, svg, text
from tests.bench.start_parts import Part, logged_stages, parts, share_of_project
from tests.support.serving import ROOT

STAGES = {
    "framework": 0.100,
    "text_opening": 0.150,
    "text_opened": 0.240,
    "imported": 0.250,
    "forked": 0.280,
    "replied": 0.300,
}
LOG = (
    "import time:       100 |        900 |   clip_embeddings.other\n"
    "12:00:00 INFO text.onnx runs on CPU\n"
    "12:00:00 INFO embed_text started framework_ms=100 text_opening_ms=150 text_opened_ms=240 "
    "imported_ms=250 forked_ms=280 replied_ms=300\n"
    "12:00:00 INFO embed_text POST / status=200\n"
)


def test_the_help_needs_no_package() -> None:
    ended = subprocess.run(
        [sys.executable, "-S", "-m", "tests.bench", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--cold-disk" in ended.stdout


def test_without_the_right_to_drop_the_page_cache_the_cold_disk_is_skipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(page_cache, "DROP", tmp_path / "missing")

    assert cold_disk.report(tmp_path, print, quick=True).startswith("Skipped: ")


def test_pages_in_memory_are_those_that_were_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(64 * PAGE + 1))
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if page_cache.pages([file]):
            pytest.skip("this file system keeps its files in memory")
        # Without reading ahead.
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(opened.fileno(), 1, 3 * PAGE)
    first = page_cache.pages([file])
    assert first == {file: frozenset([3])}

    page_cache.read_by_threads({file: frozenset(range(65))}, 4)
    taken = page_cache.pages([file])

    assert taken == {file: frozenset(range(65))}
    assert page_cache.size(page_cache.without(taken, first)) == 64 * PAGE / 1e6


@pytest.mark.skipif(bool(slow_disk.why_not()), reason=slow_disk.why_not() or "it can be mounted")
def test_a_slow_disk_has_the_same_files_and_takes_its_time(tmp_path: Path) -> None:
    folder, mountpoint = tmp_path / "folder", tmp_path / "slow"
    (folder / "below").mkdir(parents=True)
    data = os.urandom(300_000)
    (folder / "below" / "file").write_bytes(data)

    with slow_disk.mounted(folder, mountpoint, 20):
        started = time.monotonic()
        assert (mountpoint / "below" / "file").read_bytes() == data
        assert time.monotonic() - started >= 0.02
        assert [path.name for path in mountpoint.rglob("*")] == ["below", "file"]
        assert not (mountpoint / "missing").exists()
        with pytest.raises(OSError, match="Read-only"):
            (mountpoint / "new").write_text("x")

    assert list(mountpoint.iterdir()) == []


def test_the_parts_of_a_start_come_from_its_log() -> None:
    stages = logged_stages(LOG)
    assert stages == STAGES

    found = parts(0.310, 0.020, stages, project=0.5)

    assert [(part.name, round(part.begin, 3), round(part.end, 3)) for part in found] == [
        ("interpreter", 0, 0.02),
        ("framework", 0.02, 0.11),
        ("libraries", 0.11, 0.185),
        ("project", 0.185, 0.26),
        ("framework", 0.26, 0.29),
        ("open", 0.16, 0.25),
        ("first reply", 0.29, 0.31),
    ]


def test_a_function_that_logs_no_stages_is_all_framework() -> None:
    assert logged_stages("Booting worker\n") == {}
    assert parts(0.2, 0.05, {}, 0) == [Part("interpreter", 0, 0.05), Part("framework", 0.05, 0.2)]


def test_the_share_of_the_project_counts_from_the_first_mark_to_the_end_of_the_function() -> None:
    lines = [
        ("flask", 1000),
        ("clip_embeddings.marks", 10),
        ("numpy", 300),
        ("clip_embeddings.http.app", 60),
        ("functions.embed_text", 40),
        ("gunicorn", 5000),
    ]
    log = "\n".join(f"import time: {self:9} | {self:10} |   {name}" for name, self in lines)

    assert share_of_project(log) == pytest.approx(0.25)


def test_a_start_is_drawn_to_scale() -> None:
    bar = Bar("embed_text, <two> CPUs", parts(0.3, 0.02, STAGES, project=0.5))

    picture = ElementTree.fromstring(svg([bar]))
    drawn = text([bar]).splitlines()

    ends = [
        float(rectangle.attrib["x"]) + float(rectangle.attrib["width"])
        for rectangle in picture.iter("{http://www.w3.org/2000/svg}rect")
        if rectangle.attrib.get("height") == "14"
    ]
    assert ends == sorted(ends)
    cells = [cell.strip() for cell in drawn[2].split("|")[2:-1]]
    assert cells == ["20", "110", "75", "75", "90", "20", "300"]
    assert max(len(line) for line in drawn[-2:]) == len("embed_text, <two> CPUs  ") + 100
