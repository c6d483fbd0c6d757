"""Cloud Storage: lost responses, errors, and a real emulator."""

import gc
import gzip
import subprocess
import sys
import traceback
from collections.abc import Iterator

import pytest

from clip_embeddings.storage import gcs as module
from clip_embeddings.storage.gcs import GcsBucket
from clip_embeddings.storage.types import (
    BadNameError,
    NotFoundError,
    StorageError,
    TooLargeError,
    TransientError,
)
from tests.support.gcs_server import BUCKET, Fault, GcsServer, connected
from tests.support.serving import ROOT, free_port

SMALL, LARGE = b"small", bytes(9_000_000)

# google-cloud-storage drops the connection of a failed download without closing it.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed.*socket:ResourceWarning")


@pytest.fixture(autouse=True)
def _collect_garbage() -> Iterator[None]:
    yield
    # Such connections are collected here, not during a later test.
    gc.collect()


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["multipart", "resumable"])
@pytest.mark.parametrize("when", ["before", "after", "cut"])
def test_a_create_whose_response_is_lost_succeeds(
    gcs: GcsBucket, server: GcsServer, data: bytes, when: str
) -> None:
    method = "POST" if data is SMALL else "PUT"
    server.faults.append(Fault(method, when=when))

    assert gcs.create("a", data)

    assert server.faults[0].times == 0
    assert server.written == ["jobs/a"]
    assert gcs.read("a")[0] == data
    assert not gcs.create("a", data)


@pytest.mark.parametrize("when", ["before", "after", "cut"])
def test_a_retried_create_of_an_existing_object_fails(gcs: GcsBucket, server: GcsServer, when: str) -> None:
    gcs.create("a", SMALL)
    server.faults.append(Fault("POST", when=when))

    assert not gcs.create("a", SMALL)

    assert server.written == ["jobs/a"]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_reads_are_retried(gcs: GcsBucket, server: GcsServer, status: int) -> None:
    gcs.create("a", SMALL)
    server.faults.append(Fault("GET", status=status))

    assert gcs.read("a")[0] == SMALL


def test_a_service_that_stays_down_is_transient_and_names_no_object(
    gcs: GcsBucket, server: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_TIMEOUT", 0.1)
    server.faults += [Fault(method, times=1000) for method in ("GET", "POST", "DELETE")]

    for call in (
        lambda: gcs.read("secret"),
        lambda: gcs.stat("secret"),
        lambda: gcs.create("secret", b""),
        lambda: gcs.delete("secret"),
        lambda: list(gcs.names()),
    ):
        with pytest.raises(TransientError) as caught:
            call()
        assert "secret" not in str(caught.value)
        assert "jobs%2F" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("status", [400, 401, 403])
def test_refused_requests_are_permanent_errors(gcs: GcsBucket, server: GcsServer, status: int) -> None:
    server.faults += [Fault(method, status=status) for method in ("GET", "POST")]

    for call in (lambda: gcs.read("a"), lambda: gcs.create("a", b"")):
        with pytest.raises(StorageError, match=r"refused|credentials") as caught:
            call()
        assert not isinstance(caught.value, TransientError)


def test_a_server_that_is_not_running_is_a_transient_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_TIMEOUT", 0.1)
    with connected(f"http://127.0.0.1:{free_port()}", "") as bucket, pytest.raises(TransientError):
        bucket.read("a")


def test_the_limit_counts_the_decompressed_bytes(gcs: GcsBucket, server: GcsServer) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    server.put({}, {"name": "jobs/bomb", "contentEncoding": "gzip"}, bomb)
    assert len(bomb) < 20_000

    with pytest.raises(TooLargeError):
        gcs.read("bomb", max_bytes=20_000)
    assert gcs.read("bomb")[0] == bytes(10_000_000)


def test_objects_outside_the_prefix_are_out_of_reach(gcs: GcsBucket, server: GcsServer) -> None:
    server.put({}, {"name": "elsewhere"}, b"outside")
    server.put({}, {"name": "jobs"}, b"outside")
    gcs.create("a", b"")

    assert list(gcs.names()) == ["a"]
    for name in ("../elsewhere", "/elsewhere", "elsewhere"):
        assert gcs.stat(name) is None
    with connected(server.url, "") as whole:
        assert sorted(whole.names()) == ["elsewhere", "jobs", "jobs/a"]


@pytest.mark.parametrize("name", ["", "a\nb", "a\rb", "\ud800", "é" * 513])
def test_names_that_cloud_storage_refuses(gcs: GcsBucket, server: GcsServer, name: str) -> None:
    with pytest.raises(BadNameError):
        gcs.create(name, b"")
    assert gcs.stat(name) is None
    assert server.requests == []


def test_without_the_package_only_gs_buckets_fail_and_name_it() -> None:
    code = (
        "import sys; sys.modules['google.cloud.storage'] = None\n"
        "from clip_embeddings.storage.factory import open_bucket\n"
        "open_bucket(sys.argv[1]).stat('a'); open_bucket('gs://bucket').stat('a')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, (ROOT / "tests").as_uri()], cwd=ROOT, capture_output=True, text=True
    )

    assert "needs the package google-cloud-storage, which is not installed" in ended.stderr


def test_a_folder_imports_no_package_of_google() -> None:
    code = (
        "import sys, clip_embeddings.jobs.runner\n"
        "from clip_embeddings.jobs.store import JobStore\n"
        "from clip_embeddings.storage.factory import open_bucket\n"
        "open_bucket('gs://bucket'); JobStore(open_bucket(sys.argv[1])).unfinished()\n"
        "late = ('google.cloud.storage', 'requests', 'numpy')\n"
        "sys.exit(any(name.startswith(late) for name in sys.modules))"
    )

    assert subprocess.run([sys.executable, "-c", code, (ROOT / "tests").as_uri()], cwd=ROOT).returncode == 0


@pytest.fixture
def emulated() -> Iterator[GcsBucket]:
    from gcp_storage_emulator.server import create_server  # type: ignore[import-untyped]

    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    try:
        with connected(f"http://127.0.0.1:{port}", "jobs") as bucket:
            yield bucket
    finally:
        server.stop()


def test_round_trips_with_the_emulator(emulated: GcsBucket) -> None:
    assert emulated.create("a/b.json", b"{}", "application/json")
    assert emulated.create("large", LARGE)

    data, generation = emulated.read("a/b.json")
    stat = emulated.stat("a/b.json")
    assert stat is not None
    assert (data, generation, stat.content_type) == (b"{}", stat.generation, "application/json")
    assert emulated.read("large")[0] == LARGE
    assert sorted(emulated.names()) == ["a/b.json", "large"]
    assert emulated.delete("large")
    assert not emulated.delete("large")
    with pytest.raises(NotFoundError):
        emulated.read("large")
