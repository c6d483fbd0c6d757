"""Running jobs: once each, though processes die and events come twice or late."""

from __future__ import annotations

import hashlib
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clip_embeddings.jobs.runner import LocalRunner, handle_event, run_job
from clip_embeddings.jobs.store import JobOutput, JobStore
from clip_embeddings.storage.file import FileBucket
from tests.support.buckets import write_object
from tests.support.gcs_server import Fault, GcsServer, connected, serving
from tests.support.job_states import JobState, read_state
from tests.support.runner_process import compute
from tests.support.serving import ROOT, environment, free_port
from tests.support.threads import run_threads

BATCH = 200


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(FileBucket(tmp_path / "jobs"))


@pytest.fixture
def server() -> Iterator[GcsServer]:
    with serving() as running:
        yield running


def _expected(text: str) -> JobState:
    return JobState("complete", compute({"text": text}).result)


def _broken(request: dict[str, Any]) -> JobOutput:
    raise RuntimeError("the disk is on fire")


def _unused(request: dict[str, Any]) -> JobOutput:
    raise AssertionError("nothing is to be computed")


def test_a_job_is_run_once(store: JobStore) -> None:
    job = store.submit({"text": "a"})

    assert run_job(job, store, compute)

    assert not run_job(job, store, _unused)
    assert read_state(store, job) == _expected("a")


def test_an_error_of_the_caller_is_the_outcome(store: JobStore) -> None:
    job = store.submit({"text": "bad"})

    assert run_job(job, store, compute)

    error = {"code": "text_bad", "message": "This text is bad."}
    assert read_state(store, job) == JobState("failed", None, error)
    assert not run_job(job, store, _unused)


@pytest.mark.parametrize("request_", [b"{", b"[]"])
def test_a_request_that_is_not_a_json_object_fails(store: JobStore, request_: bytes) -> None:
    job = store.submit({})
    write_object(store.bucket, f"{job}/request.json", request_)

    assert run_job(job, store, _unused)

    state = read_state(store, job)
    assert state is not None
    assert state.error == {"code": "request_unreadable", "message": "The request is not a JSON object."}


@pytest.mark.parametrize("broken", [_broken, lambda request: JobOutput(object())], ids=["raises", "not JSON"])
def test_other_errors_are_raised_and_retried_up_to_a_limit(store: JobStore, broken: Any) -> None:
    store = JobStore(store.bucket, attempts=3)
    job, other = store.submit({"text": "a"}), store.submit({"text": "a"})
    for _ in range(3):
        with pytest.raises((RuntimeError, TypeError)):
            run_job(job, store, broken)
        assert read_state(store, job) == JobState("running")
    with pytest.raises((RuntimeError, TypeError)):
        run_job(other, store, broken)

    assert run_job(job, store, _unused)
    assert run_job(other, store, compute)

    state = read_state(store, job)
    assert state is not None
    assert state.error == {"code": "job_crashed", "message": "The job was begun 3 times and never ended."}
    assert read_state(store, other) == _expected("a")


def test_unknown_and_removed_jobs_are_ignored(store: JobStore) -> None:
    job = store.submit({})
    store.bucket.delete(f"{job}/request.json")

    for name in (job, "", "..", "x"):
        assert not run_job(name, store, _unused)
    assert list(store.bucket.names()) == []


def test_a_job_past_its_deadline_is_failed_not_run(tmp_path: Path) -> None:
    store = JobStore(FileBucket(tmp_path), deadline=0.05)
    job = store.submit({"text": "a"})
    time.sleep(0.1)

    assert not run_job(job, store, _unused)

    state = read_state(store, job)
    assert state is not None
    assert state.status == "failed"


def test_a_late_runner_does_not_change_the_outcome_that_a_poll_decided(tmp_path: Path) -> None:
    store = JobStore(FileBucket(tmp_path), deadline=0.2)
    job = store.submit({"text": "a"})
    states: list[JobState | None] = []

    def slow(request: dict[str, Any]) -> JobOutput:
        time.sleep(0.4)
        states.append(read_state(store, job))
        return compute(request)

    assert not run_job(job, store, slow)

    assert states[0] is not None
    assert states[0].error is not None
    assert states[0].error["code"] == "job_timeout"
    assert read_state(store, job) == states[0]


def test_two_runners_at_once_on_one_machine_compute_once(store: JobStore) -> None:
    job = store.submit({"text": "a"})
    requests: list[dict[str, Any]] = []

    def counted(request: dict[str, Any]) -> JobOutput:
        requests.append(request)
        time.sleep(0.2)
        return compute(request)

    outcomes: list[bool] = []
    run_threads([lambda: outcomes.append(run_job(job, store, counted))] * 4)

    assert (len(requests), sorted(outcomes)) == (1, [False, False, False, True])


def test_two_runners_at_once_in_the_cloud_finish_once(server: GcsServer) -> None:
    with connected(server.url, "jobs") as bucket:
        store = JobStore(bucket)
        job = store.submit({"text": "a"})
        barrier = threading.Barrier(3)

        def compute_together(request: dict[str, Any]) -> JobOutput:
            barrier.wait(20)
            return compute(request)

        outcomes: list[bool] = []
        name = f"jobs/{job}/request.json"
        run_threads([lambda: outcomes.append(handle_event("bucket", name, store, compute_together))] * 3)

        assert sorted(outcomes) == [False, False, True]
        assert server.written.count(f"jobs/{job}/result.json") == 1
        assert read_state(store, job) == _expected("a")


def test_events_of_anything_but_a_request_are_ignored(server: GcsServer) -> None:
    with connected(server.url, "jobs") as bucket:
        store = JobStore(bucket)
        job = store.submit({"text": "a"})
        others = ["", job, f"{job}/", f"{job}/result.json", f"{job}/attempts/1", f"x/{job}/request.json"]
        others += [f"{job}/request.json/x", f"{job}/request.jsonx", "x/request.json", "request.json"]
        server.requests.clear()

        for name in others:
            assert not handle_event("bucket", f"jobs/{name}", store, _unused)
        for name in (f"{job}/request.json", f"other/{job}/request.json", f"jobsx/{job}/request.json"):
            assert not handle_event("bucket", name, store, _unused)
        assert not handle_event("another", f"jobs/{job}/request.json", store, _unused)
        assert server.requests == []

        assert handle_event("bucket", f"jobs/{job}/request.json", store, compute)
        assert not handle_event("bucket", f"jobs/{job}/request.json", store, _unused)


def test_a_lost_response_while_the_result_is_written_does_no_harm(server: GcsServer) -> None:
    with connected(server.url, "jobs") as bucket:
        store = JobStore(bucket)
        job = store.submit({"text": "a"})
        server.faults += [Fault("POST", when="cut"), Fault("POST", when="after")]

        assert run_job(job, store, compute)

        assert read_state(store, job) == _expected("a")
        assert [server.written.count(name) for name in set(server.written)] == [1, 1, 1]


def test_ids_are_never_logged_in_full(store: JobStore, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("clip_embeddings").propagate = True
    caplog.set_level(logging.DEBUG, "clip_embeddings")
    jobs = [store.submit({"text": text}) for text in ("a", "bad")]
    for job in jobs:
        run_job(job, store, compute)
    broken = store.submit({"text": "a"})
    runner = LocalRunner(store, _broken, scan_seconds=0.05)
    runner.add(broken)
    _until(lambda: "on fire" in caplog.text)
    runner.stop()

    assert all(job[:8] in caplog.text for job in jobs)
    assert all(job[9:] not in caplog.text for job in [*jobs, broken])


def test_the_local_runner_takes_stored_jobs_then_new_ones_in_order(store: JobStore) -> None:
    order: list[str] = []

    def recorded(request: dict[str, Any]) -> JobOutput:
        order.append(request["text"])
        return compute(request)

    jobs = [store.submit({"text": f"before {number}"}) for number in range(3)]
    with _running(LocalRunner(store, recorded)) as runner:
        _until(lambda: all(not store.pending(job) for job in jobs))
        for number in range(5):
            jobs.append(store.submit({"text": f"after {number}"}))
            runner.add(jobs[-1])
        _until(lambda: all(not store.pending(job) for job in jobs))

    assert order == [f"before {number}" for number in range(3)] + [f"after {number}" for number in range(5)]


def test_jobs_that_do_not_fit_the_queue_or_failed_once_are_run_later(store: JobStore) -> None:
    failures = iter([True, True])

    def fail_twice(request: dict[str, Any]) -> JobOutput:
        if next(failures, False):
            raise RuntimeError
        return compute(request)

    jobs = [store.submit({"text": str(number)}) for number in range(6)]
    with _running(LocalRunner(store, fail_twice, scan_seconds=0.05, queue_size=1)) as runner:
        for job in jobs:
            runner.add(job)
        _until(lambda: all(not store.pending(job) for job in jobs))

    assert [read_state(store, job) for job in jobs] == [_expected(str(number)) for number in range(6)]


def test_the_local_runner_removes_expired_jobs(tmp_path: Path) -> None:
    store = JobStore(FileBucket(tmp_path), ttl=0.3, deadline=0.2)
    store.submit({"text": "a"})
    (tmp_path / ".partial" / "left").write_bytes(b"")

    with _running(LocalRunner(store, compute, scan_seconds=0.05, sweep_seconds=0.05)):
        _until(lambda: not [path for path in tmp_path.rglob("*") if path.is_file()])


def test_stopping_finishes_the_present_job_and_no_other(store: JobStore) -> None:
    began = threading.Event()

    def slow(request: dict[str, Any]) -> JobOutput:
        began.set()
        time.sleep(0.2)
        return compute(request)

    jobs = [store.submit({"text": "a"}) for _ in range(3)]
    runner = LocalRunner(store, slow)
    for job in jobs:
        runner.add(job)
    began.wait(20)
    runner.stop()

    assert [store.pending(job) for job in jobs] == [False, True, True]
    runner.add(jobs[1])
    time.sleep(0.1)
    assert store.pending(jobs[1])
    assert not [thread for thread in threading.enumerate() if thread.name == "jobs"]


def test_a_runner_made_before_a_fork_works_after_it(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from clip_embeddings.jobs.runner import LocalRunner\n"
        "from clip_embeddings.storage.file import FileBucket\n"
        "from clip_embeddings.jobs.store import JobOutput, JobStore\n"
        "from tests.support.job_states import read_state\n"
        "store = JobStore(FileBucket(Path(sys.argv[1])))\n"
        "runner = LocalRunner(store, lambda request: JobOutput(os.getpid()))\n"
        "runner.start(); first = store.submit({}); runner.add(first)\n"
        "while store.pending(first): time.sleep(0.01)\n"
        "if child := os.fork(): os.waitpid(child, 0); sys.exit()\n"
        "job = store.submit({}); runner.add(job)\n"
        "while store.pending(job): time.sleep(0.01)\n"
        "print(read_state(store, job).result == os.getpid(), flush=True); os._exit(0)"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, timeout=20, check=True
    )

    assert ended.stdout == b"True\n"


@pytest.mark.full
def test_200_jobs_survive_three_kills(store: JobStore, tmp_path: Path) -> None:
    log, jobs = tmp_path / "log", {}
    url = store.bucket.url

    def submit() -> None:
        for number in range(BATCH):
            jobs[store.submit({"text": f"text {number}"})] = number

    submitting = threading.Thread(target=submit)
    submitting.start()
    for kill in range(1, 4):
        with _process("local", url, str(log)) as process:
            _until(partial(_has_lines, log, kill * BATCH // 5))
            process.send_signal(signal.SIGKILL)
    submitting.join()
    with _process("local", url, str(log)):
        _until(lambda: not store.unfinished())

    assert {job: read_state(store, job) for job in jobs} == {
        job: _expected(f"text {number}") for job, number in jobs.items()
    }
    finished = log.read_text().split()
    assert len(finished) == len(set(finished))
    store.sweep()
    names = {path.name for path in (tmp_path / "jobs").rglob("*") if path.is_file()}
    assert names <= {"request.json", "result.json", *map(str, range(1, 9))}


def test_200_jobs_survive_three_kills_with_every_event_twice(server: GcsServer, tmp_path: Path) -> None:
    log, ports, jobs = tmp_path / "log", [free_port(), free_port()], {}
    # Each event goes to both runners, hence twice and at once.
    server.receivers += ports
    server.push_events(8)
    with connected(server.url, "jobs") as bucket:
        store = JobStore(bucket)

        def submit() -> None:
            for number in range(BATCH):
                jobs[store.submit({"text": f"text {number}"})] = number

        submitting = threading.Thread(target=submit)
        submitting.start()
        settings = {"STORAGE_EMULATOR_HOST": server.url}
        with _process("events", bucket.url, str(log), str(ports[1]), **settings):
            for kill in range(1, 4):
                with _process("events", bucket.url, str(log), str(ports[0]), **settings) as process:
                    _until(partial(_has_lines, log, kill * BATCH // 5))
                    process.send_signal(signal.SIGKILL)
            with _process("events", bucket.url, str(log), str(ports[0]), **settings):
                submitting.join()
                _until(lambda: not store.unfinished(), 60)
        assert {job: read_state(store, job) for job in jobs} == {
            job: _expected(f"text {number}") for job, number in jobs.items()
        }

    finished = log.read_text().split()
    assert len(finished) == len(set(finished))
    results = [name for name in server.written if name.endswith("/result.json")]
    assert (len(results), len(set(results))) == (BATCH, BATCH)


def test_a_job_that_crashes_its_process_fails_and_delays_no_other(store: JobStore, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    poison = store.submit({"text": "poison"})
    others = [store.submit({"text": str(number)}) for number in range(5)]
    crashes = 0
    while store.pending(poison):
        with _process("local", store.bucket.url, log) as process:
            _until(partial(_ended_or_finished, process, store, poison))
            crashes += process.poll() == 9
        others.append(store.submit({"text": str(len(others))}))
    with _process("local", store.bucket.url, log):
        _until(lambda: not store.unfinished())

    assert crashes == store.attempts
    state = read_state(store, poison)
    assert state is not None
    assert state.error == {"code": "job_crashed", "message": "The job was begun 8 times and never ended."}
    assert [read_state(store, job) for job in others] == [
        _expected(str(number)) for number in range(len(others))
    ]


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.full)])
def test_a_crash_at_any_line_loses_no_job_and_leaves_no_files(tmp_path: Path, step: int) -> None:
    command = [sys.executable, "-m", "tests.support.crash_everywhere", str(tmp_path), str(step)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert ended.returncode == 0, ended.stderr
    lines = dict(line.split() for line in ended.stdout.splitlines())
    assert int(lines["submit"]) > 40
    assert int(lines["run"]) > 100


def test_posts_and_polls_stay_quick_beside_a_large_batch(store: JobStore, tmp_path: Path) -> None:
    done = threading.Event()

    def work(request: dict[str, Any]) -> JobOutput:
        rows: list[list[float]] = []
        while not done.is_set():
            # Native code, during which other threads run, and Python code, during which they do not.
            hashlib.sha256(bytes(4_000_000))
            rows = [*rows[-999:], [float(number) for number in range(512)]]
        return JobOutput(rows)

    batch = store.submit({"image": ["x" * 30_000] * 1000})
    rounds = []
    with _running(LocalRunner(store, work)) as runner:
        runner.add(batch)
        _until(lambda: read_state(store, batch) == JobState("running"))
        for number in range(5):
            # The time of the disk and of other processes is subtracted: it is measured without the batch.
            alone, _ = _post_and_poll(JobStore(FileBucket(tmp_path / f"others{number}")), None)
            posts, polls = _post_and_poll(store, runner)
            rounds.append((posts - alone, polls))
            if posts - alone < 0.05 and polls < 0.02:
                break
        done.set()

    assert min(posts for posts, _ in rounds) < 0.05, rounds
    assert min(polls for _, polls in rounds) < 0.02, rounds


def _post_and_poll(store: JobStore, runner: LocalRunner | None) -> tuple[float, float]:
    posts, polls = [], []
    for _ in range(60):
        started = time.perf_counter()
        job = store.submit({"text": "a"})
        if runner:
            runner.add(job)
        posts.append(time.perf_counter() - started)
        started = time.perf_counter()
        assert store.reply(job) is not None
        polls.append(time.perf_counter() - started)
    return sorted(posts)[56], sorted(polls)[56]


@contextmanager
def _running(runner: LocalRunner) -> Iterator[LocalRunner]:
    runner.start()
    try:
        yield runner
    finally:
        runner.stop()


@contextmanager
def _process(*args: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.runner_process", *args],
        cwd=ROOT,
        env=environment(settings),
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def _has_lines(log: Path, count: int) -> bool:
    return log.exists() and log.read_bytes().count(b"\n") >= count


def _ended_or_finished(process: subprocess.Popen[bytes], store: JobStore, job: str) -> bool:
    return process.poll() is not None or not store.pending(job)


def _until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)
