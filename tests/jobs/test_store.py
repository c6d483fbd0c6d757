"""Jobs as objects: kept, answered, finished once, forgotten in time."""

import threading
import time
from pathlib import Path

import numpy as np
import orjson
import pytest

from clip_embeddings.jobs import store as module
from clip_embeddings.jobs.store import JobState, JobStore, is_id, job_of
from clip_embeddings.storage.file import FileBucket
from clip_embeddings.storage.types import Bucket

HOUR = 3600


@pytest.fixture
def store(bucket: Bucket) -> JobStore:
    return JobStore(bucket, ttl=24 * HOUR, deadline=HOUR)


def _later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.time() + seconds
    monkeypatch.setattr(module.time, "time", lambda: now)


def test_a_job_from_first_to_last(store: JobStore) -> None:
    job = store.submit({"text": "günther"})
    assert store.read(job) == JobState("starting")
    assert store.pending(job)

    assert store.attempt(job)
    assert store.read(job) == JobState("running")
    assert store.request(job) == {"text": "günther"}

    assert store.finish(job, {"embedding": np.array([0.1, 1], np.float32)})
    for _ in range(2):
        assert store.read(job) == JobState("complete", {"embedding": [0.1, 1.0]})
    assert store.reply(job) == b'{"status":"complete","result":{"embedding":[0.1,1.0]}}'
    assert not store.pending(job)


def test_a_failed_job_says_why(store: JobStore) -> None:
    job = store.submit({})

    assert store.fail(job, "image_empty", "The image has no bytes.")

    error = {"code": "image_empty", "message": "The image has no bytes."}
    assert store.read(job) == JobState("failed", None, error)
    assert orjson.loads(store.reply(job) or b"") == {"status": "failed", "result": None, "error": error}


def test_a_finished_job_stays_as_it_is(store: JobStore) -> None:
    first, second = store.submit({}), store.submit({})
    store.finish(first, 1)
    store.fail(second, "code", "message")

    assert not store.fail(first, "late", "late")
    assert not store.finish(second, 2)
    assert store.read(first) == JobState("complete", 1)
    assert store.read(second) == JobState("failed", None, {"code": "code", "message": "message"})


UNKNOWN = "00000000-0000-4000-8000-000000000000"
STRANGE = [
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


@pytest.mark.parametrize("job", [UNKNOWN, *STRANGE, UNKNOWN.replace("4", "1"), UNKNOWN.replace("0", "٠")])
def test_unknown_ids_and_what_is_no_id(store: JobStore, job: str) -> None:
    known = store.submit({})
    for strange in (job, f"{known}/", f"./{known}", f"{known}/../{known}", known.upper(), f" {known}"):
        assert store.reply(strange) is None
        assert store.read(strange) is None
        assert not store.pending(strange)


def test_ids_are_random_and_only_requests_have_them() -> None:
    ids = {JobStore(_Nowhere()).submit({}) for _ in range(50)}  # type: ignore[arg-type]

    assert len(ids) == 50
    for job in ids:
        assert is_id(job)
        assert job_of(f"{job}/request.json") == job
        for name in ("result.json", "attempts/1", "request.json/x", "x/request.json", "", "request.json\n"):
            assert job_of(f"{job}/{name}") is None


class _Nowhere:
    def create(self, *args: object) -> bool:
        return True


def test_past_its_deadline_a_job_is_finished_by_whoever_reads_it(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = store.submit({})
    store.attempt(job)
    _later(monkeypatch, HOUR - 5)
    assert store.read(job) == JobState("running")

    _later(monkeypatch, 10)
    state = store.read(job)

    assert state is not None
    assert state.error == {"code": "job_timeout", "message": "Nobody finished the job within 3,600 seconds."}
    assert not store.finish(job, "late")
    monkeypatch.undo()
    assert store.read(job) == state


def test_readers_and_a_runner_at_the_deadline_agree(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    job = store.submit({})
    _later(monkeypatch, HOUR + 5)
    seen: list[JobState | None] = []
    steps = [lambda: seen.append(store.read(job))] * 6 + [lambda: store.finish(job, 1) and None] * 2
    threads = [threading.Thread(target=step) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(seen) == 6
    assert all(state == store.read(job) for state in seen)


def test_a_job_from_the_future_ends_too(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    job = store.submit({})
    _later(monkeypatch, -2 * HOUR)

    state = store.read(job)

    assert state is not None
    assert state.status == "failed"


def test_what_a_lifecycle_rule_took_is_forgotten_and_never_flips(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_first, result_first = store.submit({}), store.submit({})
    for job in (request_first, result_first):
        store.finish(job, 1)
    _later(monkeypatch, 25 * HOUR)
    store.bucket.delete(f"{request_first}/request.json")
    store.bucket.delete(f"{result_first}/result.json")

    assert store.read(request_first) == JobState("complete", 1)
    assert store.read(result_first) is None
    assert not store.pending(result_first)


def test_attempts_are_counted_and_bounded(bucket: Bucket) -> None:
    store = JobStore(bucket, attempts=3)
    job = store.submit({})

    assert [store.attempt(job) for _ in range(5)] == [True, True, True, False, False]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff"])
def test_a_request_that_is_no_object(store: JobStore, data: bytes) -> None:
    job = store.submit({})
    store.bucket.write(f"{job}/request.json", data)

    with pytest.raises(ValueError, match=r"."):
        store.request(job)


def test_unfinished_jobs_untried_ones_first_then_by_age(store: JobStore) -> None:
    jobs = []
    for _ in range(5):
        jobs.append(store.submit({}))
        time.sleep(0.01)
    store.attempt(jobs[0])
    store.finish(jobs[1], 1)
    store.bucket.create("stranger", b"")
    store.bucket.create("x/request.json", b"")

    assert store.unfinished() == [jobs[2], jobs[3], jobs[4], jobs[0]]


def test_the_sweep_takes_whole_jobs_once_all_of_them_is_old(bucket: Bucket) -> None:
    store = JobStore(bucket, ttl=1.5, deadline=1)
    finished, never = store.submit({}), store.submit({})
    store.attempt(finished)
    store.finish(finished, 1)
    bucket.create("stranger", b"")
    time.sleep(1.6)
    young, late = store.submit({}), store.submit({})
    bucket.create(f"{finished}/attempts/2", b"")
    store.finish(late, 1)

    assert store.sweep() == 1
    assert store.read(never) is None
    assert sum(name.startswith(finished) for name in bucket.names()) == 4
    time.sleep(1.6)
    assert store.sweep() == 3

    assert list(bucket.names()) == ["stranger"]
    assert store.read(young) is None


def test_a_sweep_that_is_cut_off_leaves_no_job_to_run_again(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = store.submit({})
    store.finish(job, 1)
    _later(monkeypatch, 24 * HOUR + 5)
    deleted: list[str] = []
    real = type(store.bucket).delete

    def delete(self: Bucket, name: str) -> bool:
        if deleted:
            raise KeyboardInterrupt
        deleted.append(name)
        return real(self, name)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(type(store.bucket), "delete", delete)
        with pytest.raises(KeyboardInterrupt):
            store.sweep()

    assert deleted == [f"{job}/request.json"]
    assert store.unfinished() == []
    assert store.sweep() == 1
    assert list(store.bucket.names()) == []


def test_results_of_a_newer_version_are_read(store: JobStore) -> None:
    job = store.submit({})
    store.bucket.create(f"{job}/result.json", b'{"status":"complete","result":1,"took":2}')

    assert store.read(job) == JobState("complete", 1)


def test_polls_read_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(FileBucket(tmp_path))
    job = store.submit({"image": ["x" * 1_000_000] * 30})
    read: list[str] = []
    real = FileBucket.read

    def noted(self: FileBucket, name: str, **bounds: int) -> tuple[bytes, int]:
        read.append(name)
        return real(self, name, **bounds)

    monkeypatch.setattr(FileBucket, "read", noted)
    started = time.perf_counter()
    for _ in range(100):
        store.reply(job)

    assert set(read) == {f"{job}/result.json"}
    assert (time.perf_counter() - started) / 100 < 0.02
