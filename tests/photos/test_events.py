"""Bucket events: in any order and number, they leave in the index what is in the bucket."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_embeddings.config import Limits, PhotoSettings, Settings
from clip_embeddings.engine.model import normalize_rows
from clip_embeddings.index.types import Entry, Index
from clip_embeddings.photos.events import handle_deleted, handle_finalized
from clip_embeddings.photos.indexed_bucket import IndexedBucket
from clip_embeddings.photos.indexer import Indexer, open_indexer
from clip_embeddings.runtime import make_runtime
from clip_embeddings.storage.factory import open_bucket
from clip_embeddings.storage.types import Bucket, NotFoundError, StorageError, TransientError
from tests.support import gcs_server
from tests.support.buckets import write_object
from tests.support.indexes import opened_index
from tests.support.logs import propagated
from tests.support.pictures import picture
from tests.support.serving import Server, free_port, serving
from tests.support.threads import run_threads
from tests.support.vectors import assert_images, raw_images, raw_texts

CAT, COFFEE, HUGE = picture("chelsea"), picture("coffee", "WebP"), picture("retina", size=(700, 700))
SMALL = {name: picture(name, "PNG", (32, 32)) for name in ("chelsea", "coffee", "rocket")}
CONTENTS = {**SMALL, "no picture": b"no picture"}
DAY = 24 * 3600.0


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def event(indexed_bucket: IndexedBucket, name: str, generation: int, **fields: object) -> dict[str, object]:
    """The data of an event, as Eventarc delivers it. Fields that are None are left out."""
    data = {
        "kind": "storage#object",
        "bucket": indexed_bucket.name,
        "name": name,
        "generation": str(generation),
        "metageneration": "1",
        "contentType": "image/jpeg",
        "size": "1000",
        "timeCreated": now(),
        "updated": now(),
        **fields,
    }
    return {key: value for key, value in data.items() if value is not None}


# In this process: a folder, SQLite and the bundled model.


@pytest.fixture
def indexer(tmp_path: Path) -> Iterator[Indexer]:
    configured = Settings(limits=Limits(image_bytes=len(HUGE) - 1), photos=PhotoSettings(max_event_age=DAY))
    bucket = open_bucket((tmp_path / "photos").as_uri(), externally_written=True)
    with opened_index(f"sqlite://{tmp_path}/index.sqlite") as index:
        indexed_bucket = IndexedBucket(bucket, index, bucket.url, prefix="photos/")
        yield open_indexer(indexed_bucket, make_runtime("test", ("image",), configured))


def put(indexer: Indexer, name: str, data: bytes) -> int:
    """Write an object; returns its generation."""
    return write_object(indexer.indexed_bucket.bucket, name, data)


def upload(indexer: Indexer, name: str, generation: int, time: object = None, **fields: object) -> str:
    data = event(indexer.indexed_bucket, name, generation, **fields)
    return handle_finalized(data, now() if time is None else time, indexer)


def generations(indexer: Indexer) -> dict[str, int]:
    """The generations in the index, by name."""
    indexed_bucket = indexer.indexed_bucket
    listed = indexed_bucket.index.generations(indexed_bucket.name)
    return {name: generation for name, generation, *_ in listed}


def entry(indexer: Indexer, name: str) -> Entry:
    """The entry of an object."""
    entry = indexer.indexed_bucket.index.get(indexer.indexed_bucket.name, name)
    assert entry is not None
    return entry


def test_an_entry_has_the_properties_of_the_object(indexer: Indexer) -> None:
    generation = put(indexer, "photos/cat", CAT)
    updated = "2026-03-01T10:00:00.123456789Z"

    outcome = upload(
        indexer,
        "photos/cat",
        generation,
        contentType="image/jpeg",
        size=len(CAT),
        updated=updated,
        metadata={"camera": "K1", "broken": 3},
    )

    cat = entry(indexer, "photos/cat")
    assert outcome == "embedded"
    assert (cat.generation, cat.size, cat.content_type) == (generation, len(CAT), "image/jpeg")
    assert cat.updated.isoformat() == "2026-03-01T10:00:00.123456+00:00"
    assert cat.metadata == {"camera": "K1"}
    assert (cat.space, cat.fingerprint) == (indexer.model.manifest.space, indexer.fingerprint)
    assert_images([cat.vector], CAT)


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 1000},
        {"size": None, "contentType": None, "updated": None, "timeCreated": None, "metadata": None},
        {"size": "many", "contentType": 3, "updated": "yesterday", "timeCreated": {}, "metadata": []},
        {"updated": "0001-01-01T00:00:00+14:00", "timeCreated": "9999-12-31T23:59:59-14:00"},
        {"contentType": "text/plain", "size": "1"},
    ],
)
def test_fields_may_be_numbers_or_missing_or_invalid(indexer: Indexer, fields: dict[str, Any]) -> None:
    generation = put(indexer, "photos/cat", CAT)
    data = {**event(indexer.indexed_bucket, "photos/cat", generation, **fields), "generation": generation}

    assert handle_finalized(data, now(), indexer) == "embedded"

    assert generations(indexer) == {"photos/cat": generation}


@pytest.mark.parametrize(
    "fields",
    [
        {"name": None},
        {"name": ""},
        {"name": 3},
        {"name": "photos/\ud800"},
        {"bucket": None},
        {"bucket": ["bucket"]},
        {"generation": None},
        {"generation": "0"},
        {"generation": "-1"},
        {"generation": "1.5"},
        {"generation": "²"},
        {"generation": True},
        {"generation": 1.0},
        {"generation": str(2**63)},
        {"generation": "9" * 5000},
    ],
)
def test_an_event_without_an_object_is_dropped(
    indexer: Indexer, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    data = {**event(indexer.indexed_bucket, "photos/cat", 1), **fields}

    with propagated(caplog):
        assert handle_finalized(data, now(), indexer).startswith("dropped")
        assert handle_deleted(data, now(), indexer.indexed_bucket, DAY).startswith("dropped")

    assert caplog.text.count("the event was dropped, because it names no bucket, object and generation") == 2


@pytest.mark.parametrize("data", [None, [], "event", b"event", 3])
def test_data_that_is_not_an_object_is_dropped(indexer: Indexer, data: object) -> None:
    assert handle_finalized(data, now(), indexer).startswith("dropped")
    assert handle_deleted(data, None, indexer.indexed_bucket, DAY).startswith("dropped")


def test_events_of_other_buckets_and_prefixes_are_dropped(indexer: Indexer) -> None:
    generation = put(indexer, "others/cat", CAT)

    assert "outside of BUCKET_PREFIX" in upload(indexer, "others/cat", generation)
    other = upload(indexer, "photos/cat", generation, bucket="another\nbucket")
    expected = indexer.indexed_bucket.name
    assert f"it is about another bucket, another%0Abucket; BUCKET_URL names {expected}" in other

    assert generations(indexer) == {}


def test_an_event_that_is_too_old_is_dropped_and_logged(
    indexer: Indexer, caplog: pytest.LogCaptureFixture
) -> None:
    generation = put(indexer, "photos/a\nb", CAT)
    old = (datetime.now(UTC) - timedelta(seconds=DAY + 60)).isoformat()
    deletion = event(indexer.indexed_bucket, "photos/a\nb", generation)

    with propagated(caplog):
        dropped = upload(indexer, "photos/a\nb", generation, time=old)
        assert upload(indexer, "photos/a\nb", generation, time="yesterday") == "embedded"
        not_removed = handle_deleted(deletion, old, indexer.indexed_bucket, DAY)

    assert "older than 86400 seconds" in dropped
    assert "older than 86400 seconds" in not_removed
    assert caplog.text.count("MAX_EVENT_AGE") == 2
    # A line break in a name does not start a new line of the log.
    assert "photos/a%0Ab" in caplog.text
    assert generations(indexer) == {"photos/a\nb": generation}


NOT_EMBEDDABLE = {
    "image_unsupported": b"%PDF-1.7 no picture",
    "image_undecodable": CAT[: len(CAT) // 2],
    "image_too_large": HUGE,
}


@pytest.mark.parametrize("code", NOT_EMBEDDABLE)
def test_an_object_that_cannot_be_embedded_removes_the_older_generation(
    indexer: Indexer, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = put(indexer, "photos/cat", CAT)
    second = put(indexer, "photos/cat", NOT_EMBEDDABLE[code])
    upload_first = event(indexer.indexed_bucket, "photos/cat", first)
    with_first = replace(
        indexer, indexed_bucket=replace(indexer.indexed_bucket, bucket=bucket_of({first: CAT}))
    )
    assert handle_finalized(upload_first, now(), with_first) == "embedded"

    with propagated(caplog):
        # Without a size, reading is limited all the same.
        outcome = upload(indexer, "photos/cat", second, size=None)
        assert upload(indexer, "photos/cat", second).partition(":")[0] == code

    assert outcome.partition(":")[0] == code
    assert f"photos/cat generation {second}: {code}" in caplog.text
    assert generations(indexer) == {}
    # An event of the older generation comes late, while that can still be read.
    assert handle_finalized(upload_first, now(), with_first) == "superseded"
    assert generations(indexer) == {}
    # A newer generation may be a picture again.
    third = put(indexer, "photos/cat", CAT)
    assert upload(indexer, "photos/cat", third) == "embedded"


def test_an_object_with_a_large_size_is_not_read(indexer: Indexer) -> None:
    unreadable = replace(
        indexer, indexed_bucket=replace(indexer.indexed_bucket, bucket=failing_bucket(AssertionError()))
    )

    assert upload(unreadable, "photos/cat", 5, size=str(2**40)).startswith("image_too_large")


def test_a_removed_object_is_acknowledged(indexer: Indexer) -> None:
    first = put(indexer, "photos/cat", CAT)
    put(indexer, "photos/cat", COFFEE)

    assert upload(indexer, "photos/cat", first).startswith("object_gone")
    assert upload(indexer, "photos/never", first).startswith("object_gone")

    assert generations(indexer) == {}


@pytest.mark.parametrize("error", [TransientError("away"), StorageError("forbidden")])
def test_an_event_is_retried_if_the_bucket_fails(indexer: Indexer, error: StorageError) -> None:
    failing = replace(indexer, indexed_bucket=replace(indexer.indexed_bucket, bucket=failing_bucket(error)))

    with pytest.raises(type(error)):
        upload(failing, "photos/cat", 5)

    assert generations(indexer) == {}


def test_a_duplicate_is_not_embedded_again(indexer: Indexer) -> None:
    generation = put(indexer, "photos/cat", CAT)
    assert upload(indexer, "photos/cat", generation) == "embedded"
    unreadable = replace(
        indexer, indexed_bucket=replace(indexer.indexed_bucket, bucket=failing_bucket(AssertionError()))
    )

    assert upload(unreadable, "photos/cat", generation) == "already there"
    assert upload(unreadable, "photos/cat", generation - 1) == "superseded"


def failing_bucket(error: Exception) -> Bucket:
    """A bucket whose objects cannot be read."""

    class Failing:
        def read(self, name: str, **_: object) -> tuple[bytes, int]:
            raise error

    return cast(Bucket, Failing())


def bucket_of(data: Mapping[int, bytes]) -> Bucket:
    """A bucket in which these generations can be read: present ones, and others whose reading began early."""

    class Generations:
        def read(self, name: str, *, generation: int, max_bytes: int) -> tuple[bytes, int]:
            if generation not in data:
                raise NotFoundError
            return data[generation], generation

    return cast(Bucket, Generations())


# Events in every order.


@dataclass(frozen=True)
class Event:
    kind: str
    name: str
    generation: int


@dataclass(frozen=True)
class History:
    """The objects of a bucket that can be read, and its events in the order of their arrival."""

    # Keys of CONTENTS by generation.
    readable: Mapping[int, str]
    arriving: Sequence[Event]
    # What the index must have at the end: keys of CONTENTS by name and generation.
    final: Mapping[tuple[str, int], str]


@st.composite
def histories(draw: st.DrawFn) -> History:
    actions = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([*CONTENTS, None]))
    # Cloud Storage also sends a deletion event for a replaced generation, which may be dropped for its age.
    replacements_sent = draw(st.booleans())
    present: dict[str, int] = {}
    data: dict[int, str] = {}
    events: list[Event] = []
    for generation, (name, content) in enumerate(draw(st.lists(actions, min_size=1, max_size=6)), 1):
        if name in present:
            before = present.pop(name)
            if content is None or replacements_sent:
                events.append(Event("deleted", name, before))
        if content is not None:
            present[name], data[generation] = generation, content
            events.append(Event("finalized", name, generation))
    early = draw(st.sets(st.sampled_from(sorted(data)))) if data else set()
    readable = {number: data[number] for number in {*early, *present.values()}}
    copies = [sent for sent in events for _ in range(draw(st.integers(1, 3)))]
    final = {(name, number): data[number] for name, number in present.items() if data[number] != "no picture"}
    return History(readable, draw(st.permutations(copies)), final)


def deliver(indexer: Indexer, delivered: Event) -> None:
    data = event(indexer.indexed_bucket, delivered.name, delivered.generation)
    if delivered.kind == "finalized":
        handle_finalized(data, now(), indexer)
    else:
        handle_deleted(data, now(), indexer.indexed_bucket, DAY)


def for_history(history: History, index: Index, common: Indexer) -> Indexer:
    """An indexer of a new bucket with this history, in a common index."""
    bucket = bucket_of({number: CONTENTS[content] for number, content in history.readable.items()})
    return replace(common, indexed_bucket=IndexedBucket(bucket, index, f"bucket-{uuid.uuid4().hex}"))


def check(indexer: Indexer, history: History) -> None:
    """The index has exactly the bucket's pictures, with their vectors."""
    assert set(generations(indexer).items()) == set(history.final)
    for (name, _), content in history.final.items():
        assert_images([entry(indexer, name).vector], CONTENTS[content])


SUPPRESSED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@pytest.fixture(scope="module")
def common() -> Indexer:
    """An indexer without a bucket."""
    no_bucket: Any = None
    return open_indexer(no_bucket, make_runtime("test", ("image",), Settings()))


@pytest.fixture(scope="module")
def sqlite() -> Iterator[Index]:
    # In memory where possible, so that thousands of transactions do not wait for the disk.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    with (
        TemporaryDirectory(dir=memory) as folder,
        opened_index(f"sqlite://{folder}/index.sqlite") as index,
    ):
        yield index


@given(history=histories())
@settings(max_examples=500, deadline=None, suppress_health_check=SUPPRESSED)
def test_every_order_ends_in_the_same_index(history: History, common: Indexer, sqlite: Index) -> None:
    indexer = for_history(history, sqlite, common)

    for delivered in history.arriving:
        deliver(indexer, delivered)

    check(indexer, history)


@given(history=histories())
@settings(max_examples=25, deadline=None, suppress_health_check=SUPPRESSED)
def test_concurrent_events_end_in_the_same_index(history: History, common: Indexer, sqlite: Index) -> None:
    indexer = for_history(history, sqlite, common)

    run_threads([partial(deliver, indexer, delivered) for delivered in history.arriving])

    check(indexer, history)


@pytest.fixture(scope="module")
def in_firestore(firestore: str) -> Iterator[Index]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRESTORE_EMULATOR_HOST", firestore)
        with opened_index("firestore://some-project/photos") as index:
            yield index


@pytest.mark.full
@given(history=histories())
@settings(max_examples=50, deadline=None, suppress_health_check=SUPPRESSED)
def test_every_order_ends_in_the_same_index_of_firestore(
    history: History, common: Indexer, in_firestore: Index
) -> None:
    indexer = for_history(history, in_firestore, common)

    for delivered in history.arriving:
        deliver(indexer, delivered)

    check(indexer, history)


# The functions as processes: from an event over HTTP to the results of a search.


@dataclass(frozen=True)
class Functions:
    """A bucket, and the functions that maintain and search its index, each a process of its own."""

    bucket: Bucket
    name: str
    on_upload: Server
    on_delete: Server
    search: Server

    def send(
        self, kind: str, name: str, generation: int, *, to: Server | None = None, **fields: object
    ) -> int:
        """Deliver an event, to the function of its kind or to another; returns the status of the response."""
        headers = {
            "ce-specversion": "1.0",
            "ce-id": str(uuid.uuid4()),
            "ce-type": f"google.cloud.storage.object.v1.{kind}",
            "ce-source": f"//storage.googleapis.com/projects/_/buckets/{self.name}",
            "ce-subject": f"objects/{name}",
            "ce-time": now(),
        }
        function = to or (self.on_upload if kind == "finalized" else self.on_delete)
        indexed_bucket = IndexedBucket(self.bucket, None, self.name)  # type: ignore[arg-type]
        data = event(indexed_bucket, name, generation, **fields)
        return function.post("/", json=data, headers=headers).status_code

    def results(self, text: str = "a cat") -> list[dict[str, Any]]:
        """The results of a search for a text, best first."""
        reply = self.search.post("/search", json={"text": text})
        assert reply.status_code == 200, reply.text
        return [dict(result) for result in reply.json()["results"]]


SIGNATURES = {"on_upload": "cloudevent", "on_delete": "cloudevent", "search": "http"}


@contextmanager
def functions(folder: Path, bucket: Bucket, name: str, **settings_: str) -> Iterator[Functions]:
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        servers = {
            target: stack.enter_context(
                serving(target, folder / target, FUNCTION_SIGNATURE_TYPE=signature, **settings_)
            )
            for target, signature in SIGNATURES.items()
        }
        yield Functions(bucket, name, **servers)


@pytest.fixture(params=["files", "emulators"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Functions]:
    """A folder and SQLite, and the emulators of Cloud Storage and Firestore."""
    if request.param == "files":
        (tmp_path / "photos").mkdir()
        url = (tmp_path / "photos").as_uri()
        bucket = open_bucket(url, externally_written=True)
        urls = {"BUCKET_URL": url, "INDEX_URL": f"sqlite://{tmp_path}/index.sqlite"}
        with functions(tmp_path, bucket, bucket.url, MODEL="demo", **urls) as running:
            yield running
        return
    from gcp_storage_emulator.server import create_server  # type: ignore[import-untyped]

    address = request.getfixturevalue("firestore")
    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=gcs_server.BUCKET)
    server.start()
    try:
        urls = {
            "BUCKET_URL": f"gs://{gcs_server.BUCKET}",
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
            "INDEX_URL": f"firestore://some-project/e2e-{uuid.uuid4().hex[:8]}",
            "FIRESTORE_EMULATOR_HOST": address,
        }
        with (
            gcs_server.connected(urls["STORAGE_EMULATOR_HOST"], "") as bucket,
            functions(tmp_path, bucket, gcs_server.BUCKET, MODEL="demo", **urls) as running,
        ):
            yield running
    finally:
        server.stop()


def _nearest(results: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, float]]:
    return {result["uri"].rpartition("/")[2]: (result["generation"], result["score"]) for result in results}


def test_from_upload_to_search_and_back(running: Functions) -> None:
    bucket = running.bucket
    first = write_object(bucket, "a", CAT, "image/jpeg")
    other = write_object(bucket, "b", COFFEE, "image/webp")
    assert [running.send("finalized", "a", first), running.send("finalized", "b", other)] == [200, 200]
    assert _scores(running) == {"a": (first, _score(CAT)), "b": (other, _score(COFFEE))}

    second = write_object(bucket, "a", SMALL["rocket"], "image/png")
    # In the wrong order, and twice.
    for kind, generation in (("finalized", second), ("deleted", first), ("finalized", second)):
        assert running.send(kind, "a", generation) == 200
    assert _scores(running) == {"a": (second, _score(SMALL["rocket"])), "b": (other, _score(COFFEE))}

    write_object(bucket, "b", b"no picture any more", "image/webp")
    changed = bucket.stat("b")
    assert changed is not None
    assert running.send("finalized", "b", changed.generation) == 200
    assert set(_scores(running)) == {"a"}

    bucket.delete("a")
    assert running.send("deleted", "a", second) == 200
    assert running.send("finalized", "a", second) == 200
    assert running.results() == []


def _scores(running: Functions) -> dict[str, tuple[int, Any]]:
    nearest = _nearest(running.results())
    return {
        name: (generation, pytest.approx(score, abs=1e-4)) for name, (generation, score) in nearest.items()
    }


def _score(data: bytes) -> float:
    return float(normalize_rows(raw_images(data))[0] @ normalize_rows(raw_texts("a cat"))[0])


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[tuple[gcs_server.GcsServer, Functions]]:
    """Cloud Storage with its preconditions and generations, and SQLite."""
    with gcs_server.serving() as server, gcs_server.connected(server.url, "") as bucket:
        urls = {
            "BUCKET_URL": f"gs://{gcs_server.BUCKET}",
            "BUCKET_PREFIX": "photos/",
            "STORAGE_EMULATOR_HOST": server.url,
            "INDEX_URL": f"sqlite://{tmp_path}/index.sqlite",
        }
        with functions(tmp_path, bucket, gcs_server.BUCKET, **urls) as running:
            yield server, running


def test_only_the_types_that_a_function_is_for_change_the_index(
    cloud: tuple[gcs_server.GcsServer, Functions],
) -> None:
    server, running = cloud
    first = write_object(running.bucket, "photos/a", CAT)
    server.requests.clear()
    others = ("metadataUpdated", "archived", "deleted", "", "finalized\u00e9", "finalized.x")
    for kind in others:
        assert running.send(kind, "photos/a", first, to=running.on_upload) == 200
    assert (server.requests, running.results()) == ([], [])

    assert running.send("finalized", "photos/a", first) == 200
    for kind in ("finalized", "metadataUpdated", "", "deleted.x"):
        assert running.send(kind, "photos/a", first, to=running.on_delete) == 200
    assert [result["generation"] for result in running.results()] == [first]

    dropped = "an event of the type google.cloud.storage.object.v1.metadataUpdated was dropped; it acts on "
    kind = "google.cloud.storage.object.v1"
    assert f"on_upload: {dropped}{kind}.finalized." in running.on_upload.log.read_text()
    assert f"on_delete: {dropped}{kind}.deleted and {kind}.archived." in running.on_delete.log.read_text()


def test_a_bucket_with_object_versioning(cloud: tuple[gcs_server.GcsServer, Functions]) -> None:
    """There `archived` tells that a generation is no longer the live one: replaced, or deleted."""
    _, running = cloud
    first = write_object(running.bucket, "photos/a", CAT)
    assert running.send("finalized", "photos/a", first) == 200
    second = write_object(running.bucket, "photos/a", COFFEE)

    # Replaced: the two events come in any order, and the first one again.
    for kind, generation in (("archived", first), ("finalized", second), ("archived", first)):
        assert running.send(kind, "photos/a", generation) == 200
    assert [result["generation"] for result in running.results()] == [second]
    # The noncurrent generation is deleted for good.
    assert running.send("deleted", "photos/a", first) == 200
    assert [result["generation"] for result in running.results()] == [second]
    # Deleted: the live generation becomes noncurrent. A late event does not bring it back.
    for kind in ("archived", "finalized", "deleted"):
        assert running.send(kind, "photos/a", second) == 200
    assert running.results() == []
    # A restored object has a new generation.
    third = write_object(running.bucket, "photos/a", CAT)
    assert running.send("finalized", "photos/a", third) == 200
    assert [result["generation"] for result in running.results()] == [third]


def test_exactly_the_generation_of_the_event_is_read(cloud: tuple[gcs_server.GcsServer, Functions]) -> None:
    server, running = cloud
    first = write_object(running.bucket, "photos/a", CAT)
    second = write_object(running.bucket, "photos/a", COFFEE)

    assert running.send("finalized", "photos/a", first) == 200
    assert running.results() == []
    assert running.send("finalized", "photos/a", second, metadata={"camera": "K1"}) == 200

    (result,) = running.results()
    assert (result["uri"], result["generation"]) == ("gs://bucket/photos/a", second)
    assert result["metadata"] == {"camera": "K1"}
    reads = [path for method, path in server.requests if method == "GET" and "alt=media" in path]
    assert [f"generation={first}" in reads[0], f"generation={second}" in reads[-1]] == [True, True]


def test_objects_of_other_prefixes_and_buckets_are_not_read(
    cloud: tuple[gcs_server.GcsServer, Functions],
) -> None:
    server, running = cloud
    generation = write_object(running.bucket, "thumbnails/a", CAT)
    server.requests.clear()

    assert running.send("finalized", "thumbnails/a", generation) == 200
    assert running.send("finalized", "photos/a", generation, bucket="another") == 200

    assert server.requests == []


def test_an_event_is_retried_until_storage_answers(cloud: tuple[gcs_server.GcsServer, Functions]) -> None:
    server, running = cloud
    generation = write_object(running.bucket, "photos/a", CAT)
    server.faults.append(gcs_server.Fault("GET", "photos/a", status=403))

    assert running.send("finalized", "photos/a", generation) == 500
    assert running.send("finalized", "photos/a", generation) == 200

    assert [result["generation"] for result in running.results()] == [generation]


@pytest.mark.parametrize(("target", "signature"), [("on_upload", "cloudevent"), ("on_delete", "cloudevent")])
def test_without_a_bucket_a_function_does_not_start(target: str, signature: str, log: Path) -> None:
    with (
        pytest.raises(AssertionError, match="ended at once"),
        serving(target, log, FUNCTION_SIGNATURE_TYPE=signature),
    ):
        pass

    assert f"{target} cannot start: BUCKET_URL is not set: use gs://bucket or" in log.read_text()
