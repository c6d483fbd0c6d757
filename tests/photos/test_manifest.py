"""Backfill of what a file names: how files are read and shared, and that nothing is removed."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_embeddings.config import TaskSettings
from clip_embeddings.photos.manifest_file import MAX_LINE, ManifestError, read_names
from clip_embeddings.storage.types import NotFoundError
from tests.support import gcs_server
from tests.support.backfills import Deployment, counts, fill
from tests.support.buckets import write_object
from tests.support.photographs import crops
from tests.support.pictures import picture

NAMES = ["a.jpg", "b/ü, c.jpg", 'd "e";f.png', "x\ty.webp", " z"]
# The columns that a report of Cloud Storage has, and others.
REPORT = "project,bucket,name,location,size,timeCreated,metadata\r\n" + "".join(
    'p,photos,"{}",US,1,2026-01-01T00:00:00Z,"{{""k"":""a,b""}}"\r\n'.format(name.replace('"', '""'))
    for name in NAMES
)


def names_in(text: str | bytes, folder: Path, tasks: int = 1, bucket: str = "photos") -> list[list[str]]:
    """The names that each task reads."""
    file = folder / "manifest"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [list(read_names(str(file), bucket, TaskSettings(index, tasks))) for index in range(tasks)]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(NAMES),
        "\r\n".join(f"gs://photos/{name}" for name in NAMES) + "\r\n\r\n",
        REPORT,
        "\ufeff" + REPORT.replace("name", '"Name"', 1),
        REPORT.replace("project,bucket", "uri,bucket"),
        "uri\tsize\n" + "".join('"gs://photos/{}"\t1\n'.format(name.replace('"', '""')) for name in NAMES),
        "\n".join(json.dumps({"name": name, "size": 1}) for name in NAMES),
        "\n".join(json.dumps({"uri": f"gs://photos/{name}", "bucket": "photos"}) for name in NAMES),
    ],
    ids=["names", "URIs", "report", "mark", "both", "tabs", "JSON", "JSON URIs"],
)
@pytest.mark.parametrize("tasks", [1, 3])
def test_forms_of_files(text: str, tasks: int, tmp_path: Path) -> None:
    assert list(chain(*names_in(text, tmp_path, tasks))) == NAMES


def test_uris_of_files(tmp_path: Path) -> None:
    text = "file:///album/a b.jpg\nc.jpg\n"

    assert names_in(text, tmp_path, bucket="file:///album/") == [["a b.jpg", "c.jpg"]]


@given(st.lists(st.text("abü", max_size=9), max_size=30), st.integers(1, 40), st.booleans())
@settings(deadline=None)
def test_every_line_is_read_by_one_task(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], tasks: int, ends: bool
) -> None:
    text = "\n".join(lines) + "\n" * ends

    shares = names_in(text, tmp_path_factory.getbasetemp(), tasks)

    assert list(chain(*shares)) == [line for line in lines if line]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("gs://photos/a\ngs://others/b\n", "names gs://others/b at 14: BUCKET_URL is gs://photos/"),
        ("bucket,name\nothers,b\n", "names others at 12"),
        ('{"uri": "s3://photos/a"}', "names s3://photos/a at 0"),
        ("name,size\na\n", "a line that names no object at 10"),
        ('name\n"a\n', "a line that names no object at 5"),
        ("{}\n", "a line that names no object at 0"),
        ('{"name": "a"}\n{"name": 1}\n', "a line that names no object at 14"),
        ('{"name": "a"}\n[]\n', "a line that names no object at 14"),
        ('{"name": "a"}\n{"name": "', "a line that names no object at 14"),
        (b"a\n\xff\n", "is not text in UTF-8 at the byte 2"),
        (b"a\n" + b"b" * (MAX_LINE + 1), "has a line of more than"),
    ],
)
def test_other_files_are_refused_with_the_place(text: str | bytes, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=sentence):
        names_in(text, tmp_path)


def test_a_file_that_is_missing() -> None:
    with pytest.raises(ManifestError, match="no-such-file cannot be read: No such file"):
        list(read_names("no-such-file", "photos", TaskSettings()))


def test_a_file_in_cloud_storage_is_read_in_parts(
    server: gcs_server.GcsServer, gcs: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clip_embeddings.storage.gcs.STREAM_BYTES", 1000)
    names = [f"{number:05}.jpg" for number in range(1000)]
    server.put({}, {"name": "reports/1.txt"}, "\n".join(names).encode())
    url = f"gs://{gcs_server.BUCKET}/reports/1.txt"

    shares = [list(read_names(url, "photos", TaskSettings(index, 4))) for index in range(4)]

    assert list(chain(*shares)) == names
    assert min(map(len, shares)) >= 249
    with pytest.raises(NotFoundError, match="There is no object gs://bucket/reports/"):
        list(read_names(f"gs://{gcs_server.BUCKET}/reports/2.txt", "photos", TaskSettings()))


def test_nothing_is_removed(cloud: tuple[gcs_server.GcsServer, Deployment]) -> None:
    server, deployment = cloud
    pictures = crops(10)
    fill(deployment.bucket, pictures)
    assert deployment.run().returncode == 0
    gone, replaced, invalid, unnamed = list(pictures)[:4]
    before = deployment.generations()
    deployment.bucket.delete(gone)
    deployment.bucket.delete(unnamed)
    fill(
        deployment.bucket,
        {replaced: picture("coffee"), invalid: b"no picture", "new.png": picture(kind="PNG")},
    )
    named = [*(set(pictures) - {unnamed}), "new.png", "reports/1.csv"]
    write_object(deployment.bucket, "reports/1.csv", "\n".join(["name", *named]).encode())
    manifest = f"--manifest=gs://{gcs_server.BUCKET}/reports/1.csv"
    server.requests.clear()

    dry_run = deployment.run(manifest, "--dry-run")
    tasks = [
        deployment.run(manifest, CLOUD_RUN_TASK_INDEX=str(index), CLOUD_RUN_TASK_COUNT="2")
        for index in range(2)
    ]
    other = deployment.run(manifest, "--prefix", "no/")

    assert dry_run.stdout == "would embed 4, remove 0, skip 6\n"
    assert [run.returncode for run in tasks] == [0, 0]
    embedded, removed, skipped, failed = map(sum, zip(*(counts(run.stdout) for run in tasks), strict=True))
    assert (embedded, removed, skipped, failed) == (2, 0, 9, 0)
    assert not any(method == "GET" and "/o?" in path for method, path in server.requests)
    after = deployment.generations()
    assert after.keys() == {*pictures, "new.png"}
    assert {name for name in before if after[name] != before[name]} == {replaced}
    assert "skipped 11 (11 outside of the prefix)" in other.stdout
    refused = deployment.run(manifest, "--plan")
    assert (refused.returncode, "a manifest needs no plan" in refused.stderr) == (2, True)
