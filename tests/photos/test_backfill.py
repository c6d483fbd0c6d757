"""Backfill as a process: what it embeds and skips, and that it continues after it was killed."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from clip_embeddings.config import TaskSettings
from clip_embeddings.index.types import Index
from clip_embeddings.photos.reconcile import in_shard
from tests.support import gcs_server
from tests.support.backfills import COMMAND, Deployment, counts, fill
from tests.support.photographs import crops
from tests.support.pictures import picture
from tests.support.serving import ROOT, environment


def wait_for(index: Index, rows: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the index has so many rows, while the backfill is still running."""
    end = time.monotonic() + 120
    while index.count() < rows:
        assert process.poll() is None, "the backfill ended before it was killed"
        assert time.monotonic() < end, "the backfill makes no progress"
        time.sleep(0.002)


def kill(process: subprocess.Popen[bytes]) -> None:
    assert process.poll() is None, "the backfill ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait(20)


def test_a_killed_backfill_continues_where_it_was(
    cloud: tuple[gcs_server.GcsServer, Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, deployment = cloud
    pictures = crops(60)
    fill(deployment.bucket, pictures)
    # The bytes of one photo are held back, so that the process is killed in the middle, however fast it is.
    stuck, killed, fault = sorted(pictures)[45], threading.Event(), server.fault

    def wait(method: str, path: str) -> gcs_server.Fault | None:
        if f"/o/{stuck.replace('/', '%2F')}" in path and "alt=media" in path:
            killed.wait(60)
        return fault(method, path)

    monkeypatch.setattr(server, "fault", wait)
    process = deployment.begin()
    try:
        wait_for(deployment.index, 32, process)
        kill(process)
    finally:
        killed.set()
        with suppress(ProcessLookupError):
            process.kill()
    before = deployment.index.count()
    server.requests.clear()

    done = deployment.run()

    assert (done.returncode, counts(done.stdout)) == (0, (60 - before, 0, before, 0))
    reads = [path for method, path in server.requests if method == "GET" and "alt=media" in path]
    assert len(reads) == 60 - before
    deployment.check(pictures)
    again = deployment.run()
    assert (again.returncode, counts(again.stdout)) == (0, (0, 0, 60, 0))


@pytest.mark.full
def test_a_thousand_photos_and_two_kills(folder: Deployment) -> None:
    pictures = crops(1000)
    fill(folder.bucket, pictures)
    for rows in (200, 500):
        process = folder.begin()
        wait_for(folder.index, rows, process)
        kill(process)
    before = folder.index.count()
    assert 500 <= before < 1000

    done = folder.run()

    assert (done.returncode, counts(done.stdout)) == (0, (1000 - before, 0, before, 0))
    folder.check(pictures)


def test_failures_are_reported_with_their_reasons(folder: Deployment) -> None:
    pictures, photo = crops(9), picture("coffee")
    fill(folder.bucket, pictures)
    fill(
        folder.bucket,
        {"notes.txt": b"no picture", "half.jpg": photo[: len(photo) // 2], "big\n.jpg": bytes(200_000)},
    )

    done = folder.run(MAX_IMAGE_BYTES="150000")

    too_big = {name for name, data in pictures.items() if len(data) > 150_000}
    assert done.returncode == 1
    assert counts(done.stdout) == (9 - len(too_big), 0, 1, 2 + len(too_big))
    assert "skipped 1 (1 no picture)" in done.stdout
    assert "  image_undecodable: 1, such as 'half.jpg'" in done.stdout
    assert f"  image_too_large: {1 + len(too_big)}, such as " in done.stdout
    assert r"'big\n.jpg'" in done.stdout
    folder.check({name: data for name, data in pictures.items() if name not in too_big})


def test_it_makes_the_index_agree_with_the_bucket(folder: Deployment) -> None:
    pictures = crops(12)
    fill(folder.bucket, pictures)
    assert folder.run().returncode == 0
    removed, changed, invalid = list(pictures)[:3]
    folder.bucket.delete(removed)
    # Another generation, even if the system's clock for files ticks slowly.
    time.sleep(0.02)
    fill(folder.bucket, {changed: picture("coffee"), invalid: b"no picture", "new.png": picture(kind="PNG")})

    dry_run = folder.run("--dry-run")
    assert (dry_run.returncode, dry_run.stdout) == (0, "would embed 3, remove 1, skip 9\n")
    assert len(folder.generations()) == 12
    done = folder.run()

    assert (done.returncode, counts(done.stdout)) == (0, (2, 2, 10, 0))
    unchanged = {name: data for name, data in pictures.items() if name not in (removed, invalid)}
    folder.check({**unchanged, changed: picture("coffee"), "new.png": picture(kind="PNG")})


def test_without_credentials_it_says_how_to_get_them(tmp_path: Path) -> None:
    settings = {
        "BUCKET_URL": "gs://photos-of-nobody",
        "INDEX_URL": f"sqlite://{tmp_path}/index.sqlite",
        "MODEL": "demo",
        # No file of gcloud's, and no look for Google's metadata server.
        "HOME": str(tmp_path),
        "NO_GCE_CHECK": "true",
    }

    ended = subprocess.run(COMMAND, cwd=ROOT, env=environment(settings), capture_output=True, text=True)

    assert ended.returncode == 1
    assert "run `gcloud auth application-default login`" in ended.stderr


def test_vectors_of_another_fingerprint_are_replaced(folder: Deployment) -> None:
    pictures = crops(10)
    fill(folder.bucket, pictures)
    assert counts(folder.run(EXACT_DECODE="true").stdout) == (10, 0, 0, 0)

    done = folder.run()

    assert counts(done.stdout) == (10, 0, 0, 0)
    folder.check(pictures)


def test_tasks_share_the_work(folder: Deployment) -> None:
    pictures = crops(40)
    fill(folder.bucket, pictures)

    done = [folder.run(CLOUD_RUN_TASK_INDEX=str(task), CLOUD_RUN_TASK_COUNT="2") for task in range(2)]

    shares = [counts(run.stdout)[0] for run in done]
    assert sum(shares) == 40
    assert min(shares) > 0
    folder.check(pictures)
    # Each task removes only the entries of its own share.
    for name in pictures:
        folder.bucket.delete(name)
    removal = folder.run(CLOUD_RUN_TASK_INDEX="0", CLOUD_RUN_TASK_COUNT="2")
    assert counts(removal.stdout) == (0, shares[0], 0, 0)


def test_shares_never_change() -> None:
    names = [f"photos/{number}.jpg" for number in range(1000)]
    shares = [[name for name in names if in_shard(name, TaskSettings(task, 7))] for task in range(7)]

    assert sorted(chain(*shares)) == sorted(names)
    assert all(100 < len(share) < 190 for share in shares)
    # If a release distributed names differently, tasks of two releases would leave some out.
    assert [next(task for task in range(7) if name in shares[task]) for name in names[:12]] == EXPECTED_SHARES


EXPECTED_SHARES = [5, 5, 6, 2, 0, 6, 5, 0, 1, 5, 1, 3]


def test_only_names_with_the_prefix(folder: Deployment) -> None:
    pictures = crops(30)
    fill(folder.bucket, pictures)
    fill(folder.bucket, {"00.jpg": picture()})

    first, second = folder.run("--prefix", "1/"), folder.run("--prefix=0/0", BUCKET_PREFIX="0/")
    refused = folder.run("--prefix", "1/", BUCKET_PREFIX="0/")

    assert [counts(first.stdout)[0], counts(second.stdout)[0]] == [3, 3]
    assert {name[:2] for name in folder.generations()} == {"0/", "1/"}
    assert refused.returncode == 1
    assert "--prefix must start with BUCKET_PREFIX, '0/'" in refused.stderr


def test_a_terminal_shows_a_progress_bar(folder: Deployment) -> None:
    fill(folder.bucket, crops(20))

    with terminal(folder.settings) as (process, screen):
        shown = screen()
        assert process.wait(60) == 0

    assert "20/20" in shown
    assert "photo/s" in shown


@contextmanager
def terminal(settings: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], Any]]:
    """A backfill on a terminal, and a function that returns its output once it has ended."""
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (25, 100))
    env = environment({**settings, "TERM": "xterm"})
    process = subprocess.Popen(COMMAND, cwd=ROOT, env=env, stdin=writer, stdout=writer, stderr=writer)
    os.close(writer)

    def screen() -> str:
        parts = []
        # At the end Linux reports EIO.
        with suppress(OSError):
            while part := os.read(reader, 65536):
                parts.append(part)
        return b"".join(parts).decode()

    try:
        yield process, screen
    finally:
        os.close(reader)
        process.kill()
        process.wait()


def test_an_interrupted_run_reports_it_and_keeps_its_results(
    cloud: tuple[gcs_server.GcsServer, Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, deployment = cloud
    fill(deployment.bucket, crops(60))
    stuck, interrupted, fault = sorted(crops(60))[45], threading.Event(), server.fault

    def wait(method: str, path: str) -> gcs_server.Fault | None:
        if f"/o/{stuck.replace('/', '%2F')}" in path and "alt=media" in path:
            interrupted.wait(60)
        return fault(method, path)

    monkeypatch.setattr(server, "fault", wait)
    with terminal(deployment.settings) as (process, screen):
        wait_for(deployment.index, 32, process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        interrupted.set()
        shown = screen()
        assert process.wait(60) == 130

    assert "backfill: interrupted. Run it again to go on." in shown
    assert deployment.index.count() == counts(shown)[0] >= 32


@pytest.mark.parametrize(("status", "exit_status"), [(403, 1), (404, 0)])
def test_a_bucket_that_cannot_be_read(
    cloud: tuple[gcs_server.GcsServer, Deployment], status: int, exit_status: int
) -> None:
    server, deployment = cloud
    fill(deployment.bucket, {"a": picture(), "b": picture("coffee")})
    server.faults.append(gcs_server.Fault("GET", "/o/a", status=status))

    done = deployment.run()

    # With 403 an operator must act; with 404 the object was removed meanwhile, and is skipped.
    assert done.returncode == exit_status
    assert ("Cloud Storage refused: Forbidden 403. Run it again to go on." in done.stderr) == (status == 403)
    assert status == 403 or counts(done.stdout) == (1, 0, 1, 0)
    assert deployment.run().returncode == 0
    assert set(deployment.generations()) == {"a", "b"}
