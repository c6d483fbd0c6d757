"""Firestore: the documents, conflicting changes, and errors."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from google.cloud.firestore import DELETE_FIELD

from clip_embeddings.index import firestore_changes, firestore_client
from clip_embeddings.index.factory import open_index
from clip_embeddings.index.firestore import FirestoreIndex
from clip_embeddings.index.firestore_documents import object_id
from clip_embeddings.index.types import Filter, LabelChange
from clip_embeddings.storage.types import StorageError, TransientError
from tests.support.entries import UPDATED, direction, entry
from tests.support.indexes import close_index
from tests.support.serving import ROOT, environment, free_port


@pytest.fixture
def index(firestore: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FirestoreIndex]:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", firestore)
    index = FirestoreIndex("photos-test", f"t{uuid.uuid4().hex}")
    yield index
    close_index(index)


def documents(index: FirestoreIndex) -> list[dict[str, Any]]:
    """The documents of the collection, without those of spaces."""
    documents = [snapshot.to_dict() for snapshot in index._documents().get()]
    return [fields for fields in documents if "name" in fields]


def test_a_document_has_the_fields_that_indexes_and_policies_name(index: FirestoreIndex) -> None:
    index.upsert([entry("a/b.png", 7)])

    (fields,) = documents(index)

    assert {key: fields[key] for key in ("uri", "bucket", "name", "generation", "space", "deleted")} == {
        "uri": "gs://photos/a/b.png",
        "bucket": "photos",
        "name": "a/b.png",
        "generation": 7,
        "space": "s",
        "deleted": False,
    }
    assert list(fields["vector"]) == direction("a/b.png 7").tolist()
    assert fields["updated"] == UPDATED
    assert "expires" not in fields


def test_a_document_that_was_written_before_there_were_labels(index: FirestoreIndex) -> None:
    index.upsert([entry("a")])
    id_ = object_id("photos", "a")
    index._documents().document(id_).update({"labels": DELETE_FIELD, "label_set": DELETE_FIELD})

    assert index.get("photos", "a") == entry("a")
    assert list(index.generations("photos")) == [("a", 1, "f", "")]
    assert index.query(direction("q"), "s", 5, Filter(label="cat")).hits == []
    assert index.set_labels([LabelChange("photos", "a", 1, {"cat": 0.5}, "x")]) == [True]
    assert index.get("photos", "a") == entry("a", labels={"cat": 0.5}, label_set="x")


def test_a_tombstone_has_no_vector_and_an_expiry(index: FirestoreIndex) -> None:
    index.upsert([entry("a", 7)])
    index.delete("photos", "a", 8)

    (fields,) = documents(index)

    assert fields.keys() == {"uri", "bucket", "name", "generation", "deleted", "expires"}
    assert (fields["generation"], fields["deleted"]) == (8, True)
    assert fields["expires"] > UPDATED

    index.upsert([entry("a", 9)])
    (fields,) = documents(index)
    assert "expires" not in fields
    assert not fields["deleted"]


def test_a_tombstone_that_expires_between_read_and_write(
    index: FirestoreIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.delete("photos", "a", 5)
    replace = firestore_changes.replace
    snapshots: list[Any] = []

    def replace_after_removal(client: Any, batch: Any, reference: Any, snapshot: Any, fields: Any) -> None:
        if not snapshots:
            reference.delete()
        snapshots.append(snapshot)
        replace(client, batch, reference, snapshot, fields)

    monkeypatch.setattr(firestore_changes, "replace", replace_after_removal)
    assert index.upsert([entry("a", 6)]) == [True]

    assert [snapshot is None for snapshot in snapshots] == [False, True]
    assert [fields["generation"] for fields in documents(index)] == [6]


def test_a_change_between_read_and_write_is_not_lost(
    index: FirestoreIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.upsert([entry("a", 5), entry("b", 5)])
    replace = firestore_changes.replace
    references: list[Any] = []

    def replace_after_change(client: Any, batch: Any, reference: Any, snapshot: Any, fields: Any) -> None:
        references.append(reference)
        if len(references) == 1:
            index.upsert([entry("a", 9)])
        replace(client, batch, reference, snapshot, fields)

    monkeypatch.setattr(firestore_changes, "replace", replace_after_change)

    assert index.upsert([entry("a", 6), entry("b", 6)]) == [False, True]
    assert [version[:3] for version in index.generations("photos")] == [("a", 9, "f"), ("b", 6, "f")]


def test_constant_conflicts_are_a_transient_error(
    index: FirestoreIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.upsert([entry("a")])
    monkeypatch.setattr(firestore_changes, "CONFLICT_TIMEOUT", 0.2)
    replace = firestore_changes.replace

    def replace_after_change(client: Any, batch: Any, reference: Any, snapshot: Any, fields: Any) -> None:
        reference.update({"size": time.monotonic_ns()})
        replace(client, batch, reference, snapshot, fields)

    monkeypatch.setattr(firestore_changes, "replace", replace_after_change)

    with pytest.raises(TransientError, match="Others write the same entries"):
        index.upsert([entry("a", 2)])
    assert [version[:3] for version in index.generations("photos")] == [("a", 1, "f")]


def test_a_database_that_does_not_answer_is_a_transient_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("google.cloud.firestore")
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(firestore_client, "REQUEST_TIMEOUT", 0.2)
    monkeypatch.setattr(firestore_client, "RETRY_TIMEOUT", 0.3)
    index = FirestoreIndex("photos-test", "photos")
    for call in (
        lambda: index.upsert([entry("secret-name")]),
        lambda: index.delete("photos", "secret-name", 1),
        lambda: index.query(direction("q"), "s", 1),
        lambda: index.get("photos", "secret-name"),
        lambda: list(index.generations("photos")),
        lambda: index.count(),
    ):
        with pytest.raises(TransientError, match="Firestore did not answer well") as caught:
            call()
        assert "secret-name" not in str(caught.value)
    close_index(index)


@pytest.mark.parametrize(
    ("kind", "transient"),
    [
        ("FailedPrecondition", False),
        ("PermissionDenied", False),
        ("NotFound", False),
        ("InvalidArgument", False),
        ("ServiceUnavailable", True),
        ("DeadlineExceeded", True),
        ("ResourceExhausted", True),
        ("InternalServerError", True),
        ("Aborted", True),
    ],
)
def test_transient_and_permanent_errors(kind: str, transient: bool) -> None:
    exceptions = pytest.importorskip("google.api_core.exceptions")

    error = firestore_client.translate(getattr(exceptions, kind)("about secret-name"))

    assert isinstance(error, TransientError) is transient
    assert isinstance(error, StorageError)
    assert "secret-name" not in str(error)


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        (
            "sys.modules |= dict.fromkeys(['google.cloud', 'google.api_core', 'google.auth'])",
            "needs the package google-cloud-firestore",
        ),
        ("", "There are no credentials for Firestore here."),
    ],
)
def test_a_missing_package_or_credentials_is_named(block: str, sentence: str) -> None:
    script = f"""
import sys
{block}
from clip_embeddings.index.firestore import FirestoreIndex
from clip_embeddings.storage.types import StorageError
from tests.support.entries import entry
index = FirestoreIndex("photos-test", "photos")
assert not sys.modules.keys() & {{"grpc", "google.cloud.firestore"}}, "imported too early"
for call in (
    lambda: index.count(),
    lambda: index.get("b", "n"),
    lambda: index.delete("b", "n", 1),
    lambda: index.upsert([entry()]),
    lambda: index.query(entry().vector, "s", 1),
    lambda: list(index.generations("b")),
):
    try:
        call()
    except StorageError as error:
        print(error)
"""
    # Without a search for the metadata server of a machine in the cloud.
    isolated = environment({"NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": os.devnull, "HOME": os.devnull})
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=isolated, capture_output=True, timeout=60, check=True
    )

    lines = ended.stdout.decode().splitlines()
    assert len(lines) == 6
    assert all(sentence in line for line in lines)


def test_opening_an_index_connects_to_nothing() -> None:
    index = open_index("firestore://photos-test/photos")

    assert isinstance(index, FirestoreIndex)
    assert not index._client.made
