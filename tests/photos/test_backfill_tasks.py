"""Backfill as the tasks of a Cloud Run job: processes that share the names of a bucket."""

from __future__ import annotations

import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import gcs_server
from tests.support.backfills import Deployment, counts, fill
from tests.support.photographs import crops
from tests.support.pictures import picture

TASKS = 3


def task(index: int, folder: Path, execution: str = "backfill-x7") -> dict[str, str]:
    """The settings of one task."""
    return {
        "CLOUD_RUN_EXECUTION": execution,
        "CLOUD_RUN_TASK_INDEX": str(index),
        "CLOUD_RUN_TASK_COUNT": str(TASKS),
        "PLAN_URL": (folder / "plans").as_uri(),
    }


def execute(deployment: Deployment, folder: Path, execution: str) -> list[tuple[int, int, int, int]]:
    """Run all tasks at once; returns their counts."""
    with ThreadPoolExecutor(TASKS) as pool:
        done = list(pool.map(lambda index: deployment.run(**task(index, folder, execution)), range(TASKS)))
    assert [run.returncode for run in done] == [0] * TASKS, [run.stderr for run in done]
    return [counts(run.stdout) for run in done]


def listings(server: gcs_server.GcsServer) -> list[str]:
    """The requests that list the bucket."""
    return [path for method, path in server.requests if method == "GET" and "/o?" in path]


def test_tasks_list_and_embed_their_own_names_only(
    cloud: tuple[gcs_server.GcsServer, Deployment], tmp_path: Path
) -> None:
    server, deployment = cloud
    pictures = crops(60)
    fill(deployment.bucket, pictures)
    server.page_size = 10

    shares = execute(deployment, tmp_path, "first")

    assert shares == [(20, 0, 0, 0)] * TASKS
    # Six pages to count, and two for each share.
    assert len(listings(server)) == 6 + 2 * TASKS
    deployment.check(pictures)

    # Names before, between and after those of the first plan, which the retry of an execution keeps.
    new = {
        "!.jpg": picture("coffee"),
        f"{sorted(pictures)[30]}-2.jpg": picture(),
        "ü.png": picture(kind="PNG"),
    }
    fill(deployment.bucket, new)
    removed = sorted(pictures)[::20]
    for name in removed:
        deployment.bucket.delete(name)
    again = execute(deployment, tmp_path, "first")

    assert again == [(1, 1, 19, 0)] * TASKS
    deployment.check({**{name: data for name, data in pictures.items() if name not in removed}, **new})


def test_a_plan_is_made_beforehand(cloud: tuple[gcs_server.GcsServer, Deployment], tmp_path: Path) -> None:
    server, deployment = cloud
    pictures = crops(30)
    fill(deployment.bucket, pictures)

    planned = deployment.run("--plan", PLAN_URL=(tmp_path / "plans").as_uri())
    other_task = deployment.run("--plan", **task(1, tmp_path))
    server.requests.clear()
    shares = execute(deployment, tmp_path, "prepared")

    assert planned.returncode == other_task.returncode == 0
    assert "planned 30 names" in planned.stdout
    assert "the first task makes the plan" in other_task.stdout
    assert shares == [(10, 0, 0, 0)] * TASKS
    assert len(listings(server)) == TASKS
    deployment.check(pictures)


def test_a_task_that_is_killed_while_it_counts_is_started_again(
    cloud: tuple[gcs_server.GcsServer, Deployment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, deployment = cloud
    pictures = crops(9)
    fill(deployment.bucket, pictures)
    counting, killed, fault = threading.Event(), threading.Event(), server.fault

    def wait(method: str, path: str) -> gcs_server.Fault | None:
        if "/o?" in path and not killed.is_set():
            counting.set()
            killed.wait(60)
        return fault(method, path)

    monkeypatch.setattr(server, "fault", wait)
    process = deployment.begin(**task(0, tmp_path))
    try:
        assert counting.wait(60)
        process.kill()
        process.wait(20)
    finally:
        killed.set()
        with suppress(ProcessLookupError):
            process.kill()

    # Tasks that are started meanwhile wait for it.
    waiting = [deployment.begin(**task(index, tmp_path)) for index in (1, 2)]
    time.sleep(0.2)
    assert [process.poll() for process in waiting] == [None, None]
    again = deployment.run(**task(0, tmp_path))

    assert counts(again.stdout) == (3, 0, 0, 0)
    assert [process.wait(60) for process in waiting] == [0, 0]
    deployment.check(pictures)


def test_what_is_missing_is_said(folder: Deployment, tmp_path: Path) -> None:
    def failed(*options: str, **settings: str) -> str:
        done: subprocess.CompletedProcess[str] = folder.run(*options, **settings)
        assert done.returncode == 1
        return done.stderr

    fill(folder.bucket, {"a.jpg": picture()})
    settings = task(0, tmp_path)
    del settings["CLOUD_RUN_EXECUTION"]

    assert "--plan needs PLAN_URL" in failed("--plan")
    assert "CLOUD_RUN_EXECUTION is not set" in failed(**settings)
    inside = f"{folder.settings['BUCKET_URL']}/plans"
    assert "PLAN_URL is in the bucket of photos" in failed(**{**task(0, tmp_path), "PLAN_URL": inside})
    unusable = tmp_path / "file"
    unusable.touch()
    assert "Run it again to go on." in failed(**{**task(0, tmp_path), "PLAN_URL": unusable.as_uri()})
