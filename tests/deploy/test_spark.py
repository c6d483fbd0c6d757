"""deploy.sh spark: the plan, what is uploaded, and that no function holds any of it."""

from __future__ import annotations

import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from clip_embeddings.functions import FUNCTIONS, Function
from clip_embeddings.index.registry import find_backend
from clip_embeddings.paths import ROOT
from deploy.artifact import Artifact
from deploy.options import parse
from deploy.spark_staging import PLATFORM, PYTHON, PYTHON_PREFIX, stage_spark
from tests.support.deploy_script import deploy_sh, flag, needs_gcloud, paste
from tests.support.gcloud_parser import refused_calls

RUN = ("spark", "run", "--", "--input", "gs://my-photos", "--output", "gs://my-vectors/a b")


def plan(folder: Path, *arguments: str) -> list[list[str]]:
    """The commands of a plan, as gcloud gets them once it is pasted."""
    printed = deploy_sh("--dry-run", *arguments, folder=folder)
    assert printed.returncode == 0, printed.stderr
    return paste(printed.stdout, folder)


def test_the_plan_stages_uploads_and_submits(tmp_path: Path) -> None:
    calls = plan(tmp_path, "--model=demo", "--env=EXACT_DECODE=true", *RUN)

    assert [call[-2:] for call in calls if call[0].startswith("--model=")] == [["spark", "stage"]]
    place = "gs://my-project-clip-spark/job"
    upload = ["storage", "rsync", "build/spark/upload", place, "--project=my-project"]
    submit = calls[-1]
    assert calls[-2] == upload
    assert submit[:5] == ["dataproc", "batches", "submit", "pyspark", f"{place}/embed_spark.py"]
    assert flag(submit, "py-files") == f"{place}/pipelines.zip"
    assert flag(submit, "archives").split(",") == [
        f"{place}/environment.tar.gz#environment",
        f"{place}/model.tar.gz#model",
    ]
    assert submit[submit.index("--") + 1 :] == ["--model=./model", "--setting=EXACT_DECODE=true", *RUN[3:]]
    roles = {flag(call, "role") for call in calls if "add-iam-policy-binding" in call}
    assert roles == {"roles/dataproc.worker", "roles/storage.objectUser"}
    (made,) = [call for call in calls if call[:3] == ["storage", "buckets", "create"]]
    assert made[3] == "gs://my-project-clip-spark"


@needs_gcloud
def test_gcloud_takes_every_command(tmp_path: Path) -> None:
    account = "--service-account=runs@other-project.iam.gserviceaccount.com"
    calls = plan(tmp_path, "--model=demo", *RUN)
    calls += plan(tmp_path, "--project=other-project", "--spark-bucket=mine", account, *RUN)

    assert refused_calls([call for call in calls if call[-1] != "stage"], tmp_path) == []


@pytest.mark.parametrize(
    "arguments", [("spark",), ("spark", "run"), ("spark", "walk"), ("spark", "stage", "x")]
)
def test_other_forms_are_refused(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ended = deploy_sh("--dry-run", *arguments, folder=tmp_path)

    assert ended.returncode == 1
    assert "use spark stage or spark run" in ended.stderr


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
def test_no_function_holds_any_of_it(function: Function) -> None:
    staged = Artifact(function, ("demo",), find_backend("postgresql://user@host/photos")).code()
    names = {path.relative_to(ROOT).as_posix() for path in staged}
    assert not [name for name in names if name.startswith(("pipelines/", "clip_embeddings/bulk/"))]


def interpreter() -> Path | None:
    """The Python of the cluster's version, if it is here."""
    for path in (
        *Path.home().glob(f".pyenv/versions/{PYTHON}.*/bin"),
        Path("/usr/bin"),
        Path("/usr/local/bin"),
    ):
        if (path / f"python{PYTHON}").exists():
            return path
    return None


@pytest.mark.full
@pytest.mark.skipif(interpreter() is None, reason=f"no Python {PYTHON}, which the cluster runs")
@pytest.mark.skipif((os.uname().sysname, os.uname().machine) != PLATFORM, reason="not the cluster's platform")
def test_what_is_uploaded_holds_the_model_and_an_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interpreter()
    assert folder is not None
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    options = parse(["--model=demo", f"--build-dir={tmp_path}", "spark", "stage"], tmp_path, {})
    assert options is not None

    stage_spark(options)

    upload = tmp_path / "spark" / "upload"
    with zipfile.ZipFile(upload / "pipelines.zip") as archive:
        assert {"pipelines/__init__.py", "pipelines/inputs.py", "pipelines/outputs.py"} <= {
            *archive.namelist()
        }
    with tarfile.open(upload / "model.tar.gz") as archive_of_model:
        assert {"manifest.json", "text.onnx", "image.onnx"} <= {*archive_of_model.getnames()}
    environment = tmp_path / "environment"
    with tarfile.open(upload / "environment.tar.gz") as packed:
        link = packed.getmember(f"bin/python{PYTHON}")
        assert link.linkname == f"{PYTHON_PREFIX}/bin/python{PYTHON}"
        packed.extractall(environment, filter="fully_trusted")
    # The cluster's Python stands where the archive expects it; here, the one that packed it.
    python = environment / "bin" / f"python{PYTHON}"
    python.unlink()
    python.symlink_to(folder / f"python{PYTHON}")
    program = "import sys, clip_embeddings.bulk.frames as f, pandas, pyarrow, psycopg_pool; print(f.__file__)"
    printed = subprocess.run(
        [python, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert Path(printed.stdout.strip()).is_relative_to(environment)
    first = {path.name: path.read_bytes() for path in upload.iterdir()}

    # What has not changed is not uploaded again.
    stage_spark(options)
    assert {path.name: path.read_bytes() for path in upload.iterdir()} == first
