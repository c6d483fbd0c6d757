"""Ends a process before every line of submitting and of running a job, each time in a folder of its own.

crash_everywhere FOLDER
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

from clip_embeddings.jobs.runner import run_job
from clip_embeddings.jobs.store import JobOutput, JobStore
from clip_embeddings.storage.file import FileBucket
from tests.support.job_states import JobState, read_state

# Only lines of the product count.
PRODUCT = str(Path(run_job.__code__.co_filename).parents[1])


def compute(request: dict[str, Any]) -> JobOutput:
    """The result of a job."""
    return JobOutput(request["question"] * 2)


def crashes_at(line: int, step: Callable[[], object]) -> bool:
    """Run `step` in a process that ends before its `line`-th line; False if the step has fewer lines."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    remaining = iter(range(line, -1, -1))

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if event == "line" and frame.f_code.co_filename.startswith(PRODUCT) and not next(remaining):
            os._exit(7)
        return trace

    sys.settrace(trace)
    try:
        step()
    finally:
        os._exit(0)


def check(store: JobStore, folder: Path, crashed: bool) -> None:
    """The job can be completed, once, and no other files are left."""
    jobs = {name.partition("/")[0] for name in store.bucket.names()}
    assert crashed or jobs
    for job in jobs:
        before = read_state(store, job)
        run_job(job, store, compute)
        assert read_state(store, job) == JobState("complete", 42)
        assert before is not None
        assert before.status != "complete" or before.result == 42
    store.sweep()
    assert store.unfinished() == []
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert files <= {"request.json", "result.json", "1", "2"}, files


def main(folder: Path, step: int) -> None:
    # The end of a process loses nothing that was written; only the end of the machine would.
    os.fsync = lambda file: None  # type: ignore[assignment]
    for name in ("submit", "run"):
        for line in count(0, step):
            job_folder = folder / f"{name}-{line}"
            store = JobStore(FileBucket(job_folder))
            if name == "submit":
                crashed = crashes_at(line, partial(store.submit, {"question": 21}))
            else:
                job = store.submit({"question": 21})
                crashed = crashes_at(line, partial(run_job, job, store, compute))
            check(store, job_folder, crashed)
            if not crashed:
                print(name, line)
                break


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
