"""Labels of photos: embedded when a function is staged, and no setting of the deployed function."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.labels import labels_identity
from deploy.staging import HASH_SUFFIX
from tests.support.deploy_script import deploy_sh, flag, paste
from tests.support.models import copy_model

LABELS = "animal,birthday cake"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the bundled model."""
    return copy_model(tmp_path / "tagging")


def stage(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Stage the model of the fixture below `folder`/build; `arguments` are options and functions."""
    given = [argument for argument in arguments if argument.startswith("--")]
    names = [argument for argument in arguments if not argument.startswith("--")]
    line = ["--model=./tagging", f"--build-dir={folder / 'build'}", *given, "stage", *names]
    return deploy_sh(*line, folder=folder, **variables)  # type: ignore[arg-type]


def labels_file(folder: Path, function: str = "on_upload") -> Path:
    return folder / "build" / function / "model_cache" / "tagging" / "labels.json"


def test_only_functions_that_tag_get_the_vectors_of_labels(model: Path, tmp_path: Path) -> None:
    names = ("on_upload", "backfill", "on_delete")

    ended = stage(tmp_path, f"--photo-labels={LABELS}", *names)

    assert ended.returncode == 0, ended.stderr
    staged = {name for name in names if labels_file(tmp_path, name).exists()}
    assert staged == {"on_upload", "backfill"}
    assert labels_file(tmp_path).read_bytes() == labels_file(tmp_path, "backfill").read_bytes()
    written = json.loads(labels_file(tmp_path).read_bytes())["labels"]
    assert ended.stderr == ""
    assert (written["labels"], written["threshold"]) == (LABELS.split(","), 0.8)
    model_files = {path.name for path in labels_file(tmp_path).parent.iterdir()}
    assert model_files == {"manifest.json", "labels.json", "image.onnx", "image.data"}
    requirements = (tmp_path / "build" / "on_upload" / "requirements.txt").read_text()
    assert "ftfy" not in requirements


def test_the_content_hash_changes_with_the_labels_and_with_nothing_else(model: Path, tmp_path: Path) -> None:
    def content(*options: str, **environment: str) -> str:
        ended = stage(tmp_path, *options, "on_upload", **environment)
        assert ended.returncode == 0, ended.stderr
        return (tmp_path / "build" / f"on_upload{HASH_SUFFIX}").read_text()

    without, labels = content(), content(f"--photo-labels={LABELS}")
    (tmp_path / "labels.txt").write_text(LABELS.replace(",", "\n\n"))
    # A file, by the variable, and with another setting that is no option and counts for nothing.
    file = content(PHOTO_LABELS="labels.txt", PHOTO_LABEL_THRESHOLD="0.9")
    threshold = content(f"--photo-labels={LABELS}", "--env=PHOTO_LABEL_THRESHOLD=0.9")

    assert labels == file
    assert len({without, labels, threshold}) == 3
    # Another CPU rounds the vectors otherwise.
    path = labels_file(tmp_path)
    identity = labels_identity(path)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "vectors": "AAAA"}))
    assert labels_identity(path) == identity


def test_labels_that_are_longer_than_the_model_reads_are_staged_with_a_warning(
    model: Path, tmp_path: Path
) -> None:
    template = f"--env=PHOTO_LABEL_TEMPLATES={'very ' * 100}old {{}}|a {{}}"

    ended = stage(tmp_path, f"--photo-labels={LABELS}", template, "on_upload")

    assert ended.returncode == 0
    assert ended.stderr.startswith(
        "2 texts of labels are longer than the model reads, which cuts them, such as "
    )
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--photo-labels=cat,Cat",), "'cat' and 'Cat' are the same."),
        (("--photo-labels=./labels.txt",), "use the path of a file that can be read (No such file"),
        (("--photo-labels=,",), "use labels separated by commas, or the path of a file"),
        (("--env=PHOTO_LABELS=cat",), "use the option for PHOTO_LABELS, not --env."),
        (("--env=PHOTO_LABEL_THRESHOLD=0.9",), "--env PHOTO_LABEL_THRESHOLD needs --photo-labels."),
        (
            ("--photo-labels=cat", "--env=PHOTO_LABEL_THRESHOLD=9"),
            "PHOTO_LABEL_THRESHOLD='9' is not valid: use a probability from 0.001 to 1.",
        ),
    ],
)
def test_wrong_labels_stage_nothing(
    options: tuple[str, ...], sentence: str, model: Path, tmp_path: Path
) -> None:
    ended = stage(tmp_path, *options, "on_upload")

    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "build" / "on_upload").exists()


@pytest.mark.parametrize(
    ("towers", "changes", "sentence"),
    [
        (("text", "image"), {"logit_scale": None}, "has no logit_scale, which PHOTO_LABELS needs: bake"),
        (("image",), {"logit_scale": 50.0}, "has no text tower: it cannot embed PHOTO_LABELS."),
    ],
)
def test_a_model_that_cannot_classify_is_refused(
    towers: tuple[str, ...], changes: dict[str, float], sentence: str, tmp_path: Path
) -> None:
    copy_model(tmp_path / "tagging", towers, **changes)

    ended = stage(tmp_path, "--photo-labels=cat", "on_upload")

    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert ended.stderr.startswith("deploy.sh: on_upload: The ")
    assert sentence in ended.stderr


def test_without_packages_it_says_what_to_install(checkout: Path, model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    line = ("--model=./tagging", "--photo-labels=cat", "stage", "on_upload")

    ended = deploy_sh(*line, folder=tmp_path, checkout=checkout, PYTHON=str(bare / "bin" / "python"))

    assert ended.returncode == 1
    assert ended.stderr == (
        "deploy.sh: --photo-labels needs the packages of requirements.txt on this machine, where labels are "
        "embedded: run make .venv/installed.\n"
    )


def test_a_plan_stages_with_the_labels_and_gives_functions_no_setting_of_them(
    model: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text("animal\n")
    line = ("--model=./tagging", "--photo-labels=./labels.txt", "--env=PHOTO_LABEL_TEMPLATES={}|a {}")

    plan = deploy_sh(*line, "--project=my-project", "--dry-run", "deploy", "on_upload", folder=tmp_path)

    assert plan.returncode == 0, plan.stderr
    calls = paste(plan.stdout, tmp_path)
    (staging,) = [call for call in calls if "stage" in call]
    assert f"--photo-labels={tmp_path}/labels.txt" in staging
    assert "--env=PHOTO_LABEL_TEMPLATES={}|a {}" in staging
    (deployed,) = [call for call in calls if call[:3] == ["run", "deploy", "on-upload"]]
    assert "MODEL=tagging" in flag(deployed, "set-env-vars")
    assert "PHOTO_LABEL" not in flag(deployed, "set-env-vars")
