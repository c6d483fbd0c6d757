"""Jobs as objects: stored, polled, finished once, removed in time."""

import time
from pathlib import Path

import numpy as np
import pytest

from clip_embeddings.jobs.store import JobOutput, JobReply, JobStore, is_job_id, job_id_of
from clip_embeddings.storage.file import FileBucket
from clip_embeddings.storage.types import Bucket
from tests.support.buckets import write_object
from tests.support.job_states import JobState, read_state
from tests.support.threads import run_threads

HOUR = 3600


@pytest.fixture
def store(bucket: Bucket) -> JobStore:
    return JobStore(bucket, ttl=24 * HOUR, deadline=HOUR)


def _later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.time() + seconds
    monkeypatch.setattr(time, "time", lambda: now)


def test_the_states_of_a_job(store: JobStore) -> None:
    job = store.submit({"text": "günther"})
    assert read_state(store, job) == JobState("starting")
    assert store.reply(job) == JobReply(b'{"status":"starting"}')
    assert store.pending(job)

    assert store.record_attempt(job)
    assert read_state(store, job) == JobState("running")
    assert store.read_request(job) == {"text": "günther"}

    output = JobOutput({"embedding": np.array([0.1, 1], np.float32)}, {"Embedding-Model": "demo"})
    assert store.finish(job, output)
    for _ in range(2):
        assert read_state(store, job) == JobState("complete", {"embedding": [0.1, 1.0]})
    body = b'{"status":"complete","result":{"embedding":[0.1,1.0]}}'
    assert store.reply(job) == JobReply(body, {"Embedding-Model": "demo"})
    assert not store.pending(job)


def test_a_failed_job_has_an_error(store: JobStore) -> None:
    job = store.submit({})

    assert store.fail(job, "image_empty", "The image has no bytes.")

    error = {"code": "image_empty", "message": "The image has no bytes."}
    assert read_state(store, job) == JobState("failed", None, error)
    body = b'{"status":"failed","error":{"code":"image_empty","message":"The image has no bytes."}}'
    assert store.reply(job) == JobReply(body)


def test_a_finished_job_never_changes(store: JobStore) -> None:
    first, second = store.submit({}), store.submit({})
    store.finish(first, JobOutput(1))
    store.fail(second, "code", "message")

    assert not store.fail(first, "late", "late")
    assert not store.finish(second, JobOutput(2))
    assert read_state(store, first) == JobState("complete", 1)
    assert read_state(store, second) == JobState("failed", None, {"code": "code", "message": "message"})


UNKNOWN = "00000000-0000-4000-8000-000000000000"
MALFORMED = [
    "",
    "x",
    "..",
    "../..",
    "a/b",
    "request.json",
    ".partial",
    "\0",
    "\ud800",
    UNKNOWN + "\n",
    UNKNOWN[1:],
]


@pytest.mark.parametrize("job", [UNKNOWN, *MALFORMED, UNKNOWN.replace("4", "1"), UNKNOWN.replace("0", "٠")])
def test_unknown_and_malformed_ids(store: JobStore, job: str) -> None:
    known = store.submit({})
    for unknown in (job, f"{known}/", f"./{known}", f"{known}/../{known}", known.upper(), f" {known}"):
        assert store.reply(unknown) is None
        assert read_state(store, unknown) is None
        assert not store.pending(unknown)


def test_ids_are_random_and_only_requests_have_them() -> None:
    ids = {JobStore(_NullBucket()).submit({}) for _ in range(50)}  # type: ignore[arg-type]

    assert len(ids) == 50
    for job in ids:
        assert is_job_id(job)
        assert job_id_of(f"{job}/request.json") == job
        for name in ("result.json", "attempts/1", "request.json/x", "x/request.json", "", "request.json\n"):
            assert job_id_of(f"{job}/{name}") is None


class _NullBucket:
    def create(self, *args: object) -> bool:
        return True


def test_a_poll_past_the_deadline_finishes_the_job(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    job = store.submit({})
    store.record_attempt(job)
    _later(monkeypatch, HOUR - 5)
    assert read_state(store, job) == JobState("running")

    _later(monkeypatch, 10)
    state = read_state(store, job)

    assert state is not None
    assert state.error == {"code": "job_timeout", "message": "Nobody finished the job within 3,600 seconds."}
    assert not store.finish(job, JobOutput("late"))
    monkeypatch.undo()
    assert read_state(store, job) == state


def test_readers_and_a_runner_at_the_deadline_agree(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    job = store.submit({})
    _later(monkeypatch, HOUR + 5)
    states: list[JobState | None] = []

    def read() -> None:
        states.append(read_state(store, job))

    def finish() -> None:
        store.finish(job, JobOutput(1))

    run_threads([read] * 6 + [finish] * 2)

    assert len(states) == 6
    assert all(state == read_state(store, job) for state in states)


def test_a_job_from_the_future_is_finished_too(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    job = store.submit({})
    _later(monkeypatch, -2 * HOUR)

    state = read_state(store, job)

    assert state is not None
    assert state.status == "failed"


def test_a_lifecycle_rule_may_remove_either_object_first(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_first, result_first = store.submit({}), store.submit({})
    for job in (request_first, result_first):
        store.finish(job, JobOutput(1))
    _later(monkeypatch, 25 * HOUR)
    store.bucket.delete(f"{request_first}/request.json")
    store.bucket.delete(f"{result_first}/result.json")

    assert read_state(store, request_first) == JobState("complete", 1)
    assert read_state(store, result_first) is None
    assert not store.pending(result_first)


def test_attempts_are_limited(bucket: Bucket) -> None:
    store = JobStore(bucket, attempts=3)
    job = store.submit({})

    assert [store.record_attempt(job) for _ in range(5)] == [True, True, True, False, False]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff"])
def test_a_request_that_is_not_a_json_object(store: JobStore, data: bytes) -> None:
    job = store.submit({})
    write_object(store.bucket, f"{job}/request.json", data)

    with pytest.raises(ValueError, match=r"."):
        store.read_request(job)


def test_unfinished_jobs_come_untried_ones_first_then_by_age(store: JobStore) -> None:
    jobs = []
    for _ in range(5):
        jobs.append(store.submit({}))
        time.sleep(0.01)
    store.record_attempt(jobs[0])
    store.finish(jobs[1], JobOutput(1))
    store.bucket.create("unrelated", b"")
    store.bucket.create("x/request.json", b"")

    assert store.unfinished() == [jobs[2], jobs[3], jobs[4], jobs[0]]


def test_the_sweep_removes_a_job_once_all_its_objects_are_old(bucket: Bucket) -> None:
    store = JobStore(bucket, ttl=1.5, deadline=1)
    finished, never = store.submit({}), store.submit({})
    store.record_attempt(finished)
    store.finish(finished, JobOutput(1))
    bucket.create("unrelated", b"")
    time.sleep(1.6)
    young, late = store.submit({}), store.submit({})
    bucket.create(f"{finished}/attempts/2", b"")
    store.finish(late, JobOutput(1))

    assert store.sweep() == 1
    assert read_state(store, never) is None
    assert sum(name.startswith(finished) for name in bucket.names()) == 4
    time.sleep(1.6)
    assert store.sweep() == 3

    assert list(bucket.names()) == ["unrelated"]
    assert read_state(store, young) is None


def test_an_interrupted_sweep_leaves_no_job_to_run_again(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = store.submit({})
    store.finish(job, JobOutput(1))
    _later(monkeypatch, 24 * HOUR + 5)
    deleted: list[str] = []
    real = type(store.bucket).delete

    def delete(self: Bucket, name: str) -> bool:
        if deleted:
            raise KeyboardInterrupt
        deleted.append(name)
        return real(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(type(store.bucket), "delete", delete)
        with pytest.raises(KeyboardInterrupt):
            store.sweep()

    assert deleted == [f"{job}/request.json"]
    assert store.unfinished() == []
    assert store.sweep() == 1
    assert list(store.bucket.names()) == []


def test_results_of_an_older_version_are_read(store: JobStore) -> None:
    job = store.submit({})
    body = b'{"status":"complete","result":1}'
    store.bucket.create(f"{job}/result.json", body)

    assert store.reply(job) == JobReply(body)


def test_results_of_a_newer_version_are_read(store: JobStore) -> None:
    job = store.submit({})
    store.bucket.create(f"{job}/result.json", b'{"status":"complete","result":1,"took":2}')

    assert read_state(store, job) == JobState("complete", 1)


def test_polls_do_not_read_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(FileBucket(tmp_path))
    job = store.submit({"image": ["x" * 1_000_000] * 30})
    names: list[str] = []
    real = FileBucket.read

    def read(self: FileBucket, name: str, **bounds: int) -> tuple[bytes, int]:
        names.append(name)
        return real(self, name, **bounds)

    monkeypatch.setattr(FileBucket, "read", read)
    started = time.perf_counter()
    for _ in range(100):
        store.reply(job)

    assert set(names) == {f"{job}/result.json"}
    assert (time.perf_counter() - started) / 100 < 0.02
