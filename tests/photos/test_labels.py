"""Photos are tagged while they are indexed, and tagged anew, without being read, when the labels change."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from clip_embeddings.config import PhotoSettings, Settings
from clip_embeddings.index.registry import BACKENDS
from clip_embeddings.index.types import Entry, Index
from clip_embeddings.label_settings import LABELS_FILE, LabelSettings
from clip_embeddings.photos.events import handle_finalized
from clip_embeddings.photos.indexed_bucket import IndexedBucket
from clip_embeddings.photos.indexer import Indexer, open_indexer
from clip_embeddings.photos.pipeline import apply_changes
from clip_embeddings.photos.reconcile import differences
from clip_embeddings.photos.types import Report, Retag
from clip_embeddings.runtime import make_runtime
from clip_embeddings.storage.factory import open_bucket
from tests.support import gcs_server
from tests.support.albums import emoji_named
from tests.support.backfills import Deployment, fill
from tests.support.buckets import write_object
from tests.support.deploy_script import deploy_sh
from tests.support.indexes import EMPTY_INDEX_URLS, opened_index
from tests.support.models import copy_model, edit_manifest, flip_a_byte
from tests.support.serving import Server, refusal, serving
from tests.support.waiting import eventually

LABELS = ("fruit", "tree", "umbrella", "shoe")
# Emoji that the demo model tags with these labels at the default threshold, one that shows none of them, and
# something that is no emoji.
EXPECTED = {"grapes.png": "fruit", "umbrella.png": "umbrella", "palm tree.png": "tree", "dog.png": None}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the bundled model."""
    return copy_model(tmp_path / "tagging")


def pictures() -> dict[str, bytes]:
    return {name: emoji_named(name.removesuffix(".png")) for name in EXPECTED}


def tags(index: Index, bucket: str) -> dict[str, str | None]:
    """The only label of each entry, or None."""
    entries = (index.get(bucket, version.name) for version in index.generations(bucket))
    return {entry.name: next(iter(entry.labels), None) for entry in entries if entry}


def label_sets(index: Index, bucket: str) -> set[str]:
    return {version.label_set for version in index.generations(bucket)}


def vectors(index: Index, bucket: str) -> dict[str, np.ndarray]:
    entries = (index.get(bucket, version.name) for version in index.generations(bucket))
    return {entry.name: entry.vector for entry in entries if entry}


# Functions as they are deployed, and backfills, as processes.


@pytest.fixture(scope="module")
def staged_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of on_upload, staged with labels."""
    folder = tmp_path_factory.mktemp("staged")
    model = copy_model(folder / "tagging")
    line = (f"--model={model}", f"--build-dir={folder / 'build'}", f"--photo-labels={','.join(LABELS)}")
    ended = deploy_sh(*line, "stage", "on_upload", folder=folder)
    assert ended.returncode == 0, ended.stderr
    return folder / "build" / "on_upload"


@pytest.fixture
def staged(staged_once: Path, tmp_path: Path) -> Path:
    """A copy of that folder, which a test may change."""
    return Path(shutil.copytree(staged_once, tmp_path / "on_upload"))


def send(server: Server, deployment: Deployment, name: str, generation: int) -> int:
    """Deliver the event of an upload; returns the status of the response."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": str(uuid.uuid4()),
        "ce-type": "google.cloud.storage.object.v1.finalized",
        "ce-source": f"//storage.googleapis.com/projects/_/buckets/{deployment.name}",
        "ce-time": datetime.now(UTC).isoformat(),
    }
    data = {"bucket": deployment.name, "name": name, "generation": str(generation)}
    return server.post("/", json=data, headers=headers).status_code


def test_on_upload_tags_with_the_labels_that_were_staged(
    staged: Path, folder: Deployment, model: Path, tmp_path: Path
) -> None:
    assert not list(staged.rglob("text.*"))
    assert not list(staged.rglob("tokenizer.bpe"))
    generations = {name: write_object(folder.bucket, name, data) for name, data in pictures().items()}
    settings = {name: value for name, value in folder.settings.items() if name != "MODEL"}
    settings["FUNCTION_SIGNATURE_TYPE"] = "cloudevent"
    with serving("on_upload", tmp_path / "log", prefix=["env", "-C", str(staged)], **settings) as server:
        assert [send(server, folder, *event) for event in generations.items()] == [200] * len(EXPECTED)

    assert tags(folder.index, folder.name) == EXPECTED
    (label_set,) = label_sets(folder.index, folder.name)
    assert len(label_set) == 16
    grapes = folder.index.get(folder.name, "grapes.png")
    assert grapes is not None
    assert 0.8 <= grapes.labels["fruit"] <= 1
    # What the text tower of this machine tags is the same: there is nothing to tag anew.
    backfill = folder.run("--dry-run", MODEL=str(model), PHOTO_LABELS=",".join(LABELS))
    assert (backfill.returncode, backfill.stdout) == (0, "would embed 0, remove 0, skip 4\n")


def test_a_backfill_tags_anew_without_reading_a_picture(
    cloud: tuple[gcs_server.GcsServer, Deployment], model: Path
) -> None:
    server, deployment = cloud
    fill(deployment.bucket, pictures())
    index, name = deployment.index, deployment.name
    assert deployment.run(MODEL=str(model)).returncode == 0
    assert (tags(index, name), label_sets(index, name)) == (dict.fromkeys(EXPECTED), {""})
    before = vectors(index, name)
    # No picture can be read any more.
    server.requests.clear()
    server.faults.extend(
        gcs_server.Fault("GET", f"/o/{picture.replace(' ', '%20')}?alt=media", status=403)
        for picture in EXPECTED
    )

    def run(*options: str, **settings: str) -> str:
        done = deployment.run(*options, MODEL=str(model), **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    chosen = {"PHOTO_LABELS": ",".join(LABELS)}
    assert run("--dry-run", **chosen) == "would embed 0, tag 4, remove 0, skip 0\n"
    assert label_sets(index, name) == {""}
    assert run(**chosen) == "embedded 0, tagged 4, removed 0, skipped 0, failed 0\n"
    assert tags(index, name) == EXPECTED
    assert run(**chosen) == "embedded 0, removed 0, skipped 4 (4 already there), failed 0\n"
    (first,) = label_sets(index, name)

    # Another threshold; and a share of two tasks, and those that a file names.
    other = {**chosen, "PHOTO_LABEL_THRESHOLD": "0.001"}
    shares = [
        run(CLOUD_RUN_TASK_INDEX=str(task), CLOUD_RUN_TASK_COUNT="2", **other).count("tagged 2")
        for task in (0, 1)
    ]
    assert first not in label_sets(index, name)
    assert sum(shares) in (0, 2)
    listed = model.parent / "names.txt"
    listed.write_text("grapes.png\n")
    assert run("--manifest", str(listed), **chosen).startswith("embedded 0, tagged 1, ")
    assert len(label_sets(index, name)) == 2

    assert run() == "embedded 0, tagged 4, removed 0, skipped 0, failed 0\n"
    assert (tags(index, name), label_sets(index, name)) == (dict.fromkeys(EXPECTED), {""})
    assert not [path for _, path in server.requests if "alt=media" in path]
    assert all((vectors(index, name)[picture] == before[picture]).all() for picture in EXPECTED)


def test_the_watcher_of_a_folder_tags_what_is_indexed_already(
    folder: Deployment, model: Path, tmp_path: Path
) -> None:
    fill(folder.bucket, pictures())
    assert folder.run(MODEL=str(model)).returncode == 0
    settings = {**folder.settings, "MODEL": str(model), "PHOTO_LABELS": ",".join(LABELS)}

    with serving("gateway", tmp_path / "log", **settings):
        eventually(lambda: tags(folder.index, folder.name) == EXPECTED)
        write_object(folder.bucket, "shoe.png", emoji_named("running shoe"))
        eventually(lambda: tags(folder.index, folder.name) == {**EXPECTED, "shoe.png": "shoe"})

    assert "tagged=4" in (tmp_path / "log").read_text().replace(" ", "").replace(":", "=")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda data: data.replace(b'"space":"', b'"space":"x'), "cannot be read (made by another version"),
        (lambda data: data[:-20], "cannot be read ("),
    ],
)
def test_labels_that_are_damaged_stop_the_start(
    damage: Callable[[bytes], bytes], sentence: str, staged: Path, folder: Deployment
) -> None:
    fill(folder.bucket, pictures())
    path = staged / "model_cache" / "tagging" / LABELS_FILE
    path.write_bytes(damage(path.read_bytes()))

    message = refusal("on_upload", **{**folder.settings, "MODEL": str(path.parent)})

    assert message.startswith(f"on_upload cannot start: {path} {sentence}")
    assert message.endswith("stage this function again.\n")


def test_labels_of_another_space_stop_the_start(staged: Path, folder: Deployment) -> None:
    fill(folder.bucket, pictures())
    model = staged / "model_cache" / "tagging"
    edit_manifest(model, lambda manifest: manifest.update(space="0123456789abcdef"))
    settings = {**folder.settings, "MODEL": str(model)}

    message, backfill = refusal("on_upload", **settings), folder.run(MODEL=str(model))

    sentence = (
        f"{model / LABELS_FILE} has the labels of another model than tagging: stage this function again.\n"
    )
    assert message == f"on_upload cannot start: {sentence}"
    assert (backfill.returncode, backfill.stderr) == (1, f"backfill cannot start: {sentence}")


def test_labels_that_cannot_be_embedded_here_stop_the_start(staged: Path, folder: Deployment) -> None:
    fill(folder.bucket, pictures())
    settings = {**folder.settings, "MODEL": str(staged / "model_cache" / "tagging")}

    other = refusal("on_upload", **settings, PHOTO_LABELS="cat")
    same = folder.run("--dry-run", **settings, PHOTO_LABELS=",".join(LABELS))

    assert "PHOTO_LABELS cannot be embedded here: " in other
    assert "gets its labels when it is staged, by ./deploy.sh --photo-labels.\n" in other
    # These are the ones that were staged.
    assert (same.returncode, same.stdout) == (0, "would embed 4, remove 0, skip 0\n")


def test_a_text_tower_that_is_damaged_ends_a_backfill_before_it_begins(
    folder: Deployment, model: Path
) -> None:
    fill(folder.bucket, pictures())
    flip_a_byte(model / "text.data")

    ended = folder.run(MODEL=str(model), PHOTO_LABELS="cat")

    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(
        f"backfill cannot start: {model / 'text.data'} is damaged"
    )
    assert "Traceback" not in ended.stderr


# In this process, on every kind of index.


@pytest.fixture(params=[backend.scheme for backend in BACKENDS])
def index(request: pytest.FixtureRequest) -> Iterator[Index]:
    with opened_index(EMPTY_INDEX_URLS[request.param](request)) as index:
        yield index


def indexer(model: Path, index: Index, labels: LabelSettings) -> Indexer:
    """An indexer of the folder beside the model, as a new process opens it."""
    bucket = open_bucket((model.parent / "album").as_uri(), externally_written=True)
    settings = Settings(model=str(model), photos=PhotoSettings(labels=labels))
    indexed_bucket = IndexedBucket(bucket, index, bucket.url, generations_recur=True)
    return open_indexer(indexed_bucket, make_runtime("test", ("image",), settings))


def bring_up_to_date(opened: Indexer) -> Report:
    report = Report()
    apply_changes(opened, differences(opened.indexed_bucket, opened.entry_version, report), report)
    return report


def upload(opened: Indexer, name: str, data: bytes) -> Callable[[], str]:
    """Write an object; what delivers its event."""
    indexed_bucket = opened.indexed_bucket
    generation = write_object(indexed_bucket.bucket, name, data)
    fields = {"bucket": indexed_bucket.name, "name": name, "generation": str(generation)}
    return lambda: handle_finalized(fields, datetime.now(UTC).isoformat(), opened)


def test_labels_in_every_index(index: Index, model: Path) -> None:
    tagging = indexer(model, index, LabelSettings(LABELS))
    bucket = tagging.indexed_bucket.name
    for name, data in pictures().items():
        assert upload(tagging, name, data)() == "embedded"
    assert tags(index, bucket) == EXPECTED

    untagged = bring_up_to_date(indexer(model, index, LabelSettings()))

    assert (untagged.tagged, untagged.embedded, untagged.failed) == (4, 0, {})
    assert (tags(index, bucket), label_sets(index, bucket)) == (dict.fromkeys(EXPECTED), {""})
    assert bring_up_to_date(tagging).tagged == 4
    assert tags(index, bucket) == EXPECTED


def test_an_event_that_comes_again_tags_by_the_labels_of_now(index: Index, model: Path) -> None:
    before, now = (indexer(model, index, LabelSettings(labels)) for labels in (("tree",), LABELS))
    assert upload(before, "grapes.png", pictures()["grapes.png"])() == "embedded"
    stat = before.indexed_bucket.bucket.stat("grapes.png")
    assert stat is not None
    fields = {"bucket": now.indexed_bucket.name, "name": "grapes.png", "generation": str(stat.generation)}
    # The picture is not read again.
    before.indexed_bucket.bucket.delete("grapes.png")

    outcomes = [handle_finalized(fields, datetime.now(UTC).isoformat(), now) for _ in range(2)]

    assert outcomes == ["tagged", "already there"]
    assert tags(index, now.indexed_bucket.name) == {"grapes.png": "fruit"}


def test_an_entry_that_changes_meanwhile_keeps_what_it_got(index: Index, model: Path) -> None:
    before, now = (indexer(model, index, LabelSettings(labels)) for labels in (("tree",), LABELS))
    upload(before, "changed", pictures()["grapes.png"])()
    upload(before, "removed", pictures()["grapes.png"])()
    report = Report()
    retags = list(differences(now.indexed_bucket, now.entry_version, report))
    assert retags == [Retag(name, generation) for name, generation in _generations(index, now).items()]
    # Read for the old labels, and then changed: what is written is for the generation that was read.
    stale = [entry for retag in retags if isinstance(retag, Retag) and (entry := now.stored(retag))]
    assert len(stale) == 2
    generation = _generations(index, now)["removed"]
    upload(before, "changed", pictures()["umbrella.png"])()
    assert index.delete(now.indexed_bucket.name, "removed", generation)

    assert index.set_labels(now.tag(stale)) == [False, False]
    apply_changes(now, retags, report)

    assert report.tagged == 0
    assert tags(index, now.indexed_bucket.name) == {"changed": None}
    assert bring_up_to_date(now).tagged == 1
    assert tags(index, now.indexed_bucket.name) == {"changed": "umbrella"}


def _generations(index: Index, opened: Indexer) -> Mapping[str, int]:
    return {version.name: version.generation for version in index.generations(opened.indexed_bucket.name)}


def test_a_picture_has_twenty_labels_at_most_the_best_first(model: Path, tmp_path: Path) -> None:
    names = tuple(f"{word} {number}" for number in range(10) for word in ("fruit", "grapes", "car"))
    # Nearly even probabilities.
    edit_manifest(model, lambda manifest: manifest.update(logit_scale=5.0))
    with opened_index(f"sqlite://{tmp_path}/index.sqlite") as index:
        opened = indexer(model, index, LabelSettings(names, threshold=0.001))
        upload(opened, "grapes.png", pictures()["grapes.png"])()
        entry: Entry | None = index.get(opened.indexed_bucket.name, "grapes.png")

    assert entry is not None
    assert len(entry.labels) == 20
    assert list(entry.labels.values()) == sorted(entry.labels.values(), reverse=True)
    assert next(iter(entry.labels)).startswith("grapes")
