"""Bucket events: whatever their order and number, the index ends up with what is in the bucket."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_embeddings.config import Limits, PhotoSettings, Settings
from clip_embeddings.engine.model import normalize_rows
from clip_embeddings.index.factory import open_index
from clip_embeddings.index.types import Entry, Index
from clip_embeddings.photos.collection import IndexedBucket
from clip_embeddings.photos.events import deleted, finalized
from clip_embeddings.photos.indexer import Indexer, open_indexer
from clip_embeddings.runtime import make_runtime
from clip_embeddings.storage.factory import open_bucket
from clip_embeddings.storage.types import Bucket, NotFoundError, StorageError, TransientError
from tests.support import gcs_server
from tests.support.pictures import picture
from tests.support.serving import Server, free_port, serving
from tests.support.vectors import assert_images, raw_images, raw_texts

CAT, COFFEE, HUGE = picture("chelsea"), picture("coffee", "WebP"), picture("retina", size=(700, 700))
SMALL = {name: picture(name, "PNG", (32, 32)) for name in ("chelsea", "coffee", "rocket")}
CONTENTS = {**SMALL, "no picture": b"no picture"}
DAY = 24 * 3600.0


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def event(collection: IndexedBucket, name: str, generation: int, **fields: object) -> dict[str, object]:
    """The data of an event, as Eventarc has it; a field that is None is left out."""
    data = {
        "kind": "storage#object",
        "bucket": collection.name,
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
    chosen = Settings(limits=Limits(image_bytes=len(HUGE) - 1), photos=PhotoSettings(max_event_age=DAY))
    bucket = open_bucket((tmp_path / "photos").as_uri(), externally_written=True)
    with closing(open_index(f"sqlite://{tmp_path}/index.sqlite")) as index:
        collection = IndexedBucket(bucket, index, bucket.url, prefix="photos/")
        yield open_indexer(collection, make_runtime("test", ("image",), chosen))


def put(indexer: Indexer, name: str, data: bytes) -> int:
    """Write an object; returns its generation."""
    return indexer.collection.bucket.write(name, data)


def upload(indexer: Indexer, name: str, generation: int, when: object = None, **fields: object) -> str:
    data = event(indexer.collection, name, generation, **fields)
    return finalized(data, now() if when is None else when, indexer)


def held(indexer: Indexer) -> dict[str, int]:
    """The generations in the index, by name."""
    collection = indexer.collection
    return {name: generation for name, generation, _ in collection.index.generations(collection.name)}


def entry(indexer: Indexer, name: str) -> Entry:
    """What the index has of an object."""
    found = indexer.collection.index.get(indexer.collection.name, name)
    assert found is not None
    return found


def test_an_entry_says_what_is_known_of_the_object(indexer: Indexer) -> None:
    generation = put(indexer, "photos/cat", CAT)
    when = "2026-03-01T10:00:00.123456789Z"

    became = upload(
        indexer,
        "photos/cat",
        generation,
        contentType="image/jpeg",
        size=len(CAT),
        updated=when,
        metadata={"camera": "K1", "broken": 3},
    )

    found = entry(indexer, "photos/cat")
    assert became == "embedded"
    assert (found.generation, found.size, found.content_type) == (generation, len(CAT), "image/jpeg")
    assert found.updated.isoformat() == "2026-03-01T10:00:00.123456+00:00"
    assert found.metadata == {"camera": "K1"}
    assert (found.space, found.fingerprint) == (indexer.model.manifest.space, indexer.fingerprint)
    assert_images([found.vector], CAT)


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
def test_fields_may_be_numbers_or_absent_or_wrong(indexer: Indexer, fields: dict[str, Any]) -> None:
    generation = put(indexer, "photos/cat", CAT)
    data = {**event(indexer.collection, "photos/cat", generation, **fields), "generation": generation}

    assert finalized(data, now(), indexer) == "embedded"

    assert held(indexer) == {"photos/cat": generation}


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
def test_what_is_no_event_of_an_object_is_dropped(
    indexer: Indexer, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    data = {**event(indexer.collection, "photos/cat", 1), **fields}

    with propagated(caplog):
        assert finalized(data, now(), indexer).startswith("dropped")
        assert deleted(data, now(), indexer.collection, DAY).startswith("dropped")

    assert caplog.text.count("the event was dropped, because it names no bucket, object and generation") == 2


@pytest.mark.parametrize("data", [None, [], "event", b"event", 3])
def test_data_that_is_no_object_is_dropped(indexer: Indexer, data: object) -> None:
    assert finalized(data, now(), indexer).startswith("dropped")
    assert deleted(data, None, indexer.collection, DAY).startswith("dropped")


@contextmanager
def propagated(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Have caplog see the package's log, whatever the level of this process is."""
    log = logging.getLogger("clip_embeddings")
    before = log.level, log.propagate
    log.setLevel("INFO")
    log.propagate = True
    try:
        yield
    finally:
        log.level, log.propagate = before
        log.setLevel(before[0])


def test_other_buckets_and_prefixes_are_none_of_our_business(indexer: Indexer) -> None:
    generation = put(indexer, "others/cat", CAT)

    assert "outside of BUCKET_PREFIX" in upload(indexer, "others/cat", generation)
    assert "another bucket" in upload(indexer, "photos/cat", generation, bucket="another")

    assert held(indexer) == {}


def test_an_event_that_is_too_old_is_dropped_with_a_line(
    indexer: Indexer, caplog: pytest.LogCaptureFixture
) -> None:
    generation = put(indexer, "photos/a\nb", CAT)
    old = (datetime.now(UTC) - timedelta(seconds=DAY + 60)).isoformat()
    gone = event(indexer.collection, "photos/a\nb", generation)

    with propagated(caplog):
        dropped = upload(indexer, "photos/a\nb", generation, when=old)
        assert upload(indexer, "photos/a\nb", generation, when="yesterday") == "embedded"
        kept = deleted(gone, old, indexer.collection, DAY)

    assert "older than 86400 seconds" in dropped
    assert "older than 86400 seconds" in kept
    assert caplog.text.count("MAX_EVENT_AGE") == 2
    # A name does not write a line of its own.
    assert "photos/a%0Ab" in caplog.text
    assert held(indexer) == {"photos/a\nb": generation}


NO_PICTURES = {
    "image_unsupported": b"%PDF-1.7 no picture",
    "image_undecodable": CAT[: len(CAT) // 2],
    "image_too_large": HUGE,
}


@pytest.mark.parametrize("code", NO_PICTURES)
def test_what_is_no_picture_is_acknowledged_and_takes_the_old_one_away(
    indexer: Indexer, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = put(indexer, "photos/cat", CAT)
    second = put(indexer, "photos/cat", NO_PICTURES[code])
    upload_first = event(indexer.collection, "photos/cat", first)
    keeps = replace(indexer, collection=replace(indexer.collection, bucket=Versions({first: CAT})))
    assert finalized(upload_first, now(), keeps) == "embedded"

    with propagated(caplog):
        # The size is a claim, too.
        became = upload(indexer, "photos/cat", second, size=None)
        assert upload(indexer, "photos/cat", second).partition(":")[0] == code

    assert became.partition(":")[0] == code
    assert f"photos/cat generation {second}: {code}" in caplog.text
    assert held(indexer) == {}
    # Late, though its bytes are still to be had.
    assert finalized(upload_first, now(), keeps) == "superseded"
    assert held(indexer) == {}
    # What others can decode, a later one may be.
    third = put(indexer, "photos/cat", CAT)
    assert upload(indexer, "photos/cat", third) == "embedded"


def test_a_large_object_is_not_even_asked_for(indexer: Indexer) -> None:
    nothing = replace(indexer, collection=replace(indexer.collection, bucket=Failing(AssertionError())))

    assert upload(nothing, "photos/cat", 5, size=str(2**40)).startswith("image_too_large")


def test_what_is_gone_is_acknowledged(indexer: Indexer) -> None:
    first = put(indexer, "photos/cat", CAT)
    put(indexer, "photos/cat", COFFEE)

    assert upload(indexer, "photos/cat", first).startswith("object_gone")
    assert upload(indexer, "photos/never", first).startswith("object_gone")

    assert held(indexer) == {}


@pytest.mark.parametrize("error", [TransientError("away"), StorageError("forbidden")])
def test_a_bucket_that_fails_has_the_event_come_again(indexer: Indexer, error: StorageError) -> None:
    failing = replace(indexer, collection=replace(indexer.collection, bucket=Failing(error)))

    with pytest.raises(type(error)):
        upload(failing, "photos/cat", 5)

    assert held(indexer) == {}


def test_a_duplicate_is_not_embedded_again(indexer: Indexer) -> None:
    generation = put(indexer, "photos/cat", CAT)
    assert upload(indexer, "photos/cat", generation) == "embedded"
    nothing = replace(indexer, collection=replace(indexer.collection, bucket=Failing(AssertionError())))

    assert upload(nothing, "photos/cat", generation) == "already there"
    assert upload(nothing, "photos/cat", generation - 1) == "superseded"


@dataclass(frozen=True)
class Failing:
    """A bucket of which nothing can be read."""

    error: Exception

    def read(self, name: str, **_: object) -> tuple[bytes, int]:
        raise self.error


@dataclass(frozen=True)
class Versions:
    """A bucket of which these generations can be read: present ones, and those whose reading began early."""

    data: Mapping[int, bytes]

    def read(self, name: str, *, generation: int, max_bytes: int) -> tuple[bytes, int]:
        if generation not in self.data:
            raise NotFoundError
        return self.data[generation], generation


# Every order.


@dataclass(frozen=True)
class Event:
    kind: str
    name: str
    generation: int


@dataclass(frozen=True)
class History:
    """What was done to a bucket, what can be read of it, and how its events arrive."""

    # Keys of CONTENTS by generation.
    readable: Mapping[int, str]
    arriving: Sequence[Event]
    # What the index must end with: the same by name and generation.
    final: Mapping[tuple[str, int], str]


@st.composite
def histories(draw: st.DrawFn) -> History:
    actions = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([*CONTENTS, None]))
    # Cloud Storage tells of the end of an overwritten generation, too; that event may be dropped for its age.
    told = draw(st.booleans())
    present: dict[str, int] = {}
    data: dict[int, str] = {}
    events: list[Event] = []
    for generation, (name, content) in enumerate(draw(st.lists(actions, min_size=1, max_size=6)), 1):
        if name in present:
            before = present.pop(name)
            if content is None or told:
                events.append(Event("deleted", name, before))
        if content is not None:
            present[name], data[generation] = generation, content
            events.append(Event("finalized", name, generation))
    early = draw(st.sets(st.sampled_from(sorted(data)))) if data else set()
    readable = {number: data[number] for number in {*early, *present.values()}}
    copies = [one for one in events for _ in range(draw(st.integers(1, 3)))]
    final = {(name, number): data[number] for name, number in present.items() if data[number] != "no picture"}
    return History(readable, draw(st.permutations(copies)), final)


def deliver(indexer: Indexer, one: Event) -> None:
    data = event(indexer.collection, one.name, one.generation)
    if one.kind == "finalized":
        finalized(data, now(), indexer)
    else:
        deleted(data, now(), indexer.collection, DAY)


def fresh(index: Index, history: History, common: Indexer) -> Indexer:
    """An indexer of another bucket, in the same index."""
    bucket: Any = Versions({number: CONTENTS[content] for number, content in history.readable.items()})
    return replace(common, collection=IndexedBucket(bucket, index, f"bucket-{uuid.uuid4().hex}"))


def check(indexer: Indexer, history: History) -> None:
    """The index has exactly the bucket's pictures, with their vectors."""
    assert set(held(indexer).items()) == set(history.final)
    for (name, _), content in history.final.items():
        assert_images([entry(indexer, name).vector], CONTENTS[content])


QUICK = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@pytest.fixture(scope="module")
def common() -> Indexer:
    """With no collection yet."""
    nowhere: Any = None
    return open_indexer(nowhere, make_runtime("test", ("image",), Settings()))


@pytest.fixture(scope="module")
def sqlite() -> Iterator[Index]:
    # In memory where there is such a folder: thousands of transactions wait for no disk.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    with (
        TemporaryDirectory(dir=memory) as folder,
        closing(open_index(f"sqlite://{folder}/index.sqlite")) as index,
    ):
        yield index


@given(history=histories())
@settings(max_examples=500, deadline=None, suppress_health_check=QUICK)
def test_every_order_ends_in_the_same_index(history: History, common: Indexer, sqlite: Index) -> None:
    indexer = fresh(sqlite, history, common)

    for one in history.arriving:
        deliver(indexer, one)

    check(indexer, history)


@given(history=histories())
@settings(max_examples=25, deadline=None, suppress_health_check=QUICK)
def test_events_at_once_end_in_the_same_index(history: History, common: Indexer, sqlite: Index) -> None:
    indexer = fresh(sqlite, history, common)
    threads = [threading.Thread(target=deliver, args=(indexer, one)) for one in history.arriving]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    check(indexer, history)


@pytest.fixture(scope="module")
def in_firestore(firestore: str) -> Iterator[Index]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRESTORE_EMULATOR_HOST", firestore)
        with closing(open_index("firestore://some-project/photos")) as index:
            yield index


@pytest.mark.full
@given(history=histories())
@settings(max_examples=50, deadline=None, suppress_health_check=QUICK)
def test_every_order_ends_in_the_same_index_of_firestore(
    history: History, common: Indexer, in_firestore: Index
) -> None:
    indexer = fresh(in_firestore, history, common)

    for one in history.arriving:
        deliver(indexer, one)

    check(indexer, history)


# The functions themselves: from an event over HTTP to what a search finds.


@dataclass(frozen=True)
class Functions:
    """A bucket, and the functions that keep its index and search it, each a process of its own."""

    bucket: Bucket
    name: str
    on_upload: Server
    on_delete: Server
    search: Server

    def tell(self, kind: str, name: str, generation: int, **fields: object) -> int:
        """Deliver an event; returns the status of the answer."""
        headers = {
            "ce-specversion": "1.0",
            "ce-id": str(uuid.uuid4()),
            "ce-type": f"google.cloud.storage.object.v1.{kind}",
            "ce-source": f"//storage.googleapis.com/projects/_/buckets/{self.name}",
            "ce-subject": f"objects/{name}",
            "ce-time": now(),
        }
        function = self.on_upload if kind == "finalized" else self.on_delete
        collection = IndexedBucket(self.bucket, None, self.name)  # type: ignore[arg-type]
        data = event(collection, name, generation, **fields)
        return function.post("/", json=data, headers=headers).status_code

    def found(self, text: str = "a cat") -> list[dict[str, Any]]:
        """What a search for a text finds, best first."""
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
    """SQLite and a folder; Firestore and Cloud Storage, as their emulators have them."""
    if request.param == "files":
        (tmp_path / "photos").mkdir()
        url = (tmp_path / "photos").as_uri()
        bucket = open_bucket(url, externally_written=True)
        places = {"BUCKET_URL": url, "INDEX_URL": f"sqlite://{tmp_path}/index.sqlite"}
        with functions(tmp_path, bucket, bucket.url, MODEL="demo", **places) as found:
            yield found
        return
    from gcp_storage_emulator.server import create_server

    address = request.getfixturevalue("firestore")
    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=gcs_server.BUCKET)
    server.start()
    try:
        places = {
            "BUCKET_URL": f"gs://{gcs_server.BUCKET}",
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
            "INDEX_URL": f"firestore://some-project/e2e-{uuid.uuid4().hex[:8]}",
            "FIRESTORE_EMULATOR_HOST": address,
        }
        with (
            gcs_server.connected(places["STORAGE_EMULATOR_HOST"], "") as bucket,
            functions(tmp_path, bucket, gcs_server.BUCKET, MODEL="demo", **places) as found,
        ):
            yield found
    finally:
        server.stop()


def _nearest(results: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, float]]:
    return {result["uri"].rpartition("/")[2]: (result["generation"], result["score"]) for result in results}


def test_from_upload_to_search_and_back(running: Functions) -> None:
    photos = running.bucket
    first, other = photos.write("a", CAT, "image/jpeg"), photos.write("b", COFFEE, "image/webp")
    assert [running.tell("finalized", "a", first), running.tell("finalized", "b", other)] == [200, 200]
    assert _scores(running) == {"a": (first, _score(CAT)), "b": (other, _score(COFFEE))}

    second = photos.write("a", SMALL["rocket"], "image/png")
    # In the wrong order, and twice.
    for kind, generation in (("finalized", second), ("deleted", first), ("finalized", second)):
        assert running.tell(kind, "a", generation) == 200
    assert _scores(running) == {"a": (second, _score(SMALL["rocket"])), "b": (other, _score(COFFEE))}

    photos.write("b", b"no picture any more", "image/webp")
    changed = photos.stat("b")
    assert changed is not None
    assert running.tell("finalized", "b", changed.generation) == 200
    assert set(_scores(running)) == {"a"}

    photos.delete("a")
    assert running.tell("deleted", "a", second) == 200
    assert running.tell("finalized", "a", second) == 200
    assert running.found() == []


def _scores(running: Functions) -> dict[str, tuple[int, Any]]:
    found = _nearest(running.found())
    return {name: (generation, pytest.approx(score, abs=1e-4)) for name, (generation, score) in found.items()}


def _score(data: bytes) -> float:
    return float(normalize_rows(raw_images(data))[0] @ normalize_rows(raw_texts("a cat"))[0])


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[tuple[gcs_server.GcsServer, Functions]]:
    """Cloud Storage with its semantics, and SQLite."""
    with gcs_server.serving() as server, gcs_server.connected(server.url, "") as bucket:
        places = {
            "BUCKET_URL": f"gs://{gcs_server.BUCKET}",
            "BUCKET_PREFIX": "photos/",
            "STORAGE_EMULATOR_HOST": server.url,
            "INDEX_URL": f"sqlite://{tmp_path}/index.sqlite",
        }
        with functions(tmp_path, bucket, gcs_server.BUCKET, **places) as found:
            yield server, found


def test_exactly_the_generation_of_the_event_is_read(cloud: tuple[gcs_server.GcsServer, Functions]) -> None:
    server, running = cloud
    first = running.bucket.write("photos/a", CAT)
    second = running.bucket.write("photos/a", COFFEE)

    assert running.tell("finalized", "photos/a", first) == 200
    assert running.found() == []
    assert running.tell("finalized", "photos/a", second, metadata={"camera": "K1"}) == 200

    (result,) = running.found()
    assert (result["uri"], result["generation"]) == ("gs://bucket/photos/a", second)
    assert result["metadata"] == {"camera": "K1"}
    reads = [path for method, path in server.requests if method == "GET" and "alt=media" in path]
    assert [f"generation={first}" in reads[0], f"generation={second}" in reads[-1]] == [True, True]


def test_nothing_is_read_of_what_is_not_ours(cloud: tuple[gcs_server.GcsServer, Functions]) -> None:
    server, running = cloud
    generation = running.bucket.write("thumbnails/a", CAT)
    server.requests.clear()

    assert running.tell("finalized", "thumbnails/a", generation) == 200
    assert running.tell("finalized", "photos/a", generation, bucket="another") == 200

    assert server.requests == []


def test_an_event_comes_again_until_storage_answers(cloud: tuple[gcs_server.GcsServer, Functions]) -> None:
    server, running = cloud
    generation = running.bucket.write("photos/a", CAT)
    server.faults.append(gcs_server.Fault("GET", "photos/a", status=403))

    assert running.tell("finalized", "photos/a", generation) == 500
    assert running.tell("finalized", "photos/a", generation) == 200

    assert [result["generation"] for result in running.found()] == [generation]


@pytest.mark.parametrize(("target", "signature"), [("on_upload", "cloudevent"), ("on_delete", "cloudevent")])
def test_without_a_bucket_a_function_does_not_start(target: str, signature: str, log: Path) -> None:
    with (
        pytest.raises(AssertionError, match="ended at once"),
        serving(target, log, FUNCTION_SIGNATURE_TYPE=signature),
    ):
        pass

    assert f"{target} cannot start: BUCKET_URL is not set: use gs://bucket or" in log.read_text()
