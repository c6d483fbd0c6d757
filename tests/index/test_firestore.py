"""Firestore: what is written there, and what is said when it does not answer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from clip_embeddings.index import firestore
from clip_embeddings.index.firestore import FirestoreIndex
from clip_embeddings.storage.types import StorageError, TransientError
from tests.support.entries import UPDATED, direction, entry
from tests.support.serving import ROOT, environment, free_port


@pytest.fixture
def index(firestore: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FirestoreIndex]:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", firestore)
    with closing(FirestoreIndex("photos-test", f"t{uuid.uuid4().hex}")) as found:
        yield found


def documents(index: FirestoreIndex) -> list[dict[str, Any]]:
    """What is in the collection, the documents of spaces aside."""
    found = [document.to_dict() for document in index._entries().get()]
    return [fields for fields in found if "name" in fields]


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


def test_a_policy_may_remove_a_tombstone_between_look_and_write(
    index: FirestoreIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.delete("photos", "a", 5)
    replace, looks = firestore._replace, []

    def slow(client: Any, batch: Any, reference: Any, before: Any, fields: Any) -> None:
        if not looks:
            reference.delete()
        looks.append(before)
        replace(client, batch, reference, before, fields)

    monkeypatch.setattr(firestore, "_replace", slow)
    assert index.upsert([entry("a", 6)]) == [True]

    assert [before is None for before in looks] == [False, True]
    assert [fields["generation"] for fields in documents(index)] == [6]


def test_a_change_in_between_is_not_lost(index: FirestoreIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    index.upsert([entry("a", 5), entry("b", 5)])
    replace, looks = firestore._replace, []

    def slow(client: Any, batch: Any, reference: Any, before: Any, fields: Any) -> None:
        looks.append(reference)
        if len(looks) == 1:
            index.upsert([entry("a", 9)])
        replace(client, batch, reference, before, fields)

    monkeypatch.setattr(firestore, "_replace", slow)

    assert index.upsert([entry("a", 6), entry("b", 6)]) == [False, True]
    assert list(index.generations("photos")) == [("a", 9, "f"), ("b", 6, "f")]


def test_whoever_is_always_too_late_may_try_again_later(
    index: FirestoreIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.upsert([entry("a")])
    monkeypatch.setattr(firestore, "PATIENCE", 0.2)
    replace = firestore._replace

    def late(client: Any, batch: Any, reference: Any, before: Any, fields: Any) -> None:
        reference.update({"size": time.monotonic_ns()})
        replace(client, batch, reference, before, fields)

    monkeypatch.setattr(firestore, "_replace", late)

    with pytest.raises(TransientError, match="Others write the same entries"):
        index.upsert([entry("a", 2)])
    assert list(index.generations("photos")) == [("a", 1, "f")]


def test_a_database_that_does_not_answer_may_do_so_later(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("google.cloud.firestore")
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(firestore, "TIMEOUT", 0.2)
    monkeypatch.setattr(firestore, "TRIES", 0.3)
    with closing(FirestoreIndex("photos-test", "photos")) as index:
        for ask in (
            lambda: index.upsert([entry("secret-name")]),
            lambda: index.delete("photos", "secret-name", 1),
            lambda: index.query(direction("q"), "s", 1),
            lambda: index.get("photos", "secret-name"),
            lambda: list(index.generations("photos")),
            lambda: index.count(),
        ):
            with pytest.raises(TransientError, match="Firestore did not answer well") as caught:
                ask()
            assert "secret-name" not in str(caught.value)


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
def test_what_may_be_tried_again(kind: str, transient: bool) -> None:
    exceptions = pytest.importorskip("google.api_core.exceptions")

    found = firestore._translate(getattr(exceptions, kind)("about secret-name"))

    assert isinstance(found, TransientError) is transient
    assert isinstance(found, StorageError)
    assert "secret-name" not in str(found)


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
def test_what_is_missing_is_said_in_words(block: str, sentence: str) -> None:
    script = f"""
import sys
{block}
from clip_embeddings.index.factory import open_index
from clip_embeddings.storage.types import StorageError
from tests.support.entries import entry
index = open_index("firestore://photos-test/photos")
assert not sys.modules.keys() & {{"grpc", "google.cloud.firestore"}}, "imported too early"
for ask in (
    lambda: index.count(),
    lambda: index.get("b", "n"),
    lambda: index.delete("b", "n", 1),
    lambda: index.upsert([entry()]),
    lambda: index.query(entry().vector, "s", 1),
    lambda: list(index.generations("b")),
):
    try:
        ask()
    except StorageError as error:
        print(error)
"""
    # Nobody answers for a machine of the cloud here.
    quiet = environment({"NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": os.devnull, "HOME": os.devnull})
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=quiet, capture_output=True, timeout=60, check=True
    )

    lines = ended.stdout.decode().splitlines()
    assert len(lines) == 6
    assert all(sentence in line for line in lines)


def test_an_index_that_was_never_used_connects_to_nothing() -> None:
    index = FirestoreIndex("photos-test", "photos")

    index.close()

    assert not index._client.made
