"""Assembles what a Spark job is submitted with: the driver's modules, the model, and an environment."""

from __future__ import annotations

import gzip
import hashlib
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from clip_embeddings.engine.manifest import TOWERS, Manifest, find_model_folder, load_manifest
from clip_embeddings.paths import MODEL_CACHE, ROOT
from deploy.errors import DeployError
from deploy.options import CommandLine

# Of the build folder.
FOLDER = "spark"
MAIN = "embed_spark.py"
# The runtime's Python, and the folder that it is in.
# https://cloud.google.com/dataproc-serverless/docs/guides/custom-containers
PYTHON, PYTHON_PREFIX = "3.12", "/opt/dataproc/conda"
VENV_PACK = "venv-pack==0.2.0"
REQUIREMENTS = "pipelines/requirements-worker.txt"
# Compiled packages are those of the machine that packs them.
PLATFORM = ("Linux", "x86_64")


def stage_spark(options: CommandLine) -> None:
    """Assemble the folder `upload` of the build folder. What has not changed keeps its bytes.

    Raises:
        DeployError: the environment cannot be packed on this machine.
        ModelError: the model is not baked.
    """
    folder = find_model_folder(options["MODEL"], MODEL_CACHE)
    manifest = load_manifest(folder, TOWERS, allow_missing_towers=True)
    out = Path(options["BUILD_DIR"]).absolute() / FOLDER
    upload = out / "upload"
    upload.mkdir(parents=True, exist_ok=True)
    _archive_model(folder, manifest, upload / "model.tar.gz")
    shutil.copyfile(ROOT / "pipelines" / MAIN, upload / MAIN)
    with zipfile.ZipFile(upload / "pipelines.zip", "w") as archive:
        for path in sorted((ROOT / "pipelines").glob("*.py")):
            # Without a time, so that the same modules make the same bytes.
            archive.writestr(zipfile.ZipInfo(f"pipelines/{path.name}"), path.read_bytes())
    _pack_environment(out, upload / "environment.tar.gz")
    for path in sorted(upload.iterdir()):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", flush=True)


def _archive_model(folder: Path, manifest: Manifest, target: Path) -> None:
    files = {file.path for tower in manifest.towers.values() for file in tower.files}
    with (
        target.open("wb") as raw,
        # Weights hardly get smaller.
        gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0, filename="") as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for name in ("manifest.json", *sorted(files)):
            entry = tarfile.TarInfo(name)
            entry.size = (folder / name).stat().st_size
            with (folder / name).open("rb") as file:
                archive.addfile(entry, file)


def _pack_environment(out: Path, target: Path) -> None:
    """Make a virtual environment with the library and what it needs on a cluster, and pack it."""
    stamp = out / "environment.stamp"
    digest = _digest()
    if target.exists() and stamp.exists() and stamp.read_text() == digest:
        return
    if (platform.system(), platform.machine()) != PLATFORM:
        raise DeployError(
            "the environment of a Spark job must be packed on Linux on x86-64, as the cluster's machines "
            "are: run this in Cloud Shell or in a container."
        )
    python = shutil.which(f"python{PYTHON}")
    if python is None:
        raise DeployError(f"python{PYTHON}, which the cluster runs, is not installed here.")
    venv = out / "venv"
    shutil.rmtree(venv, ignore_errors=True)
    _run(python, "-m", "venv", str(venv))
    # A copy, because a build leaves files beside its sources.
    source = out / "source"
    shutil.rmtree(source, ignore_errors=True)
    for path in _sources():
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    packages = (str(source), "-r", str(ROOT / REQUIREMENTS), VENV_PACK)
    _run(str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *packages)
    # venv-pack itself writes names such as python3.123.12 into links to anything but `python`.
    for name, link in (("python", f"python{PYTHON}"), ("python3", f"python{PYTHON}")):
        _relink(venv / "bin" / name, link)
    _relink(venv / "bin" / f"python{PYTHON}", f"{PYTHON_PREFIX}/bin/python{PYTHON}")
    pack = f"import sys; sys.path.insert(0, {str(venv / 'lib' / f'python{PYTHON}' / 'site-packages')!r})"
    _run(
        *(python, "-c", f"{pack}; from venv_pack.__main__ import main; main()"),
        *("--prefix", str(venv), "--python-prefix", PYTHON_PREFIX),
        *("--output", str(target), "--force", "--quiet"),
    )
    stamp.write_text(digest)


def _relink(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _sources() -> Iterator[Path]:
    """The files of the wheel."""
    yield ROOT / "pyproject.toml"
    for path in sorted((ROOT / "clip_embeddings").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def _digest() -> str:
    digest = hashlib.sha256(f"{PYTHON} {PYTHON_PREFIX} {VENV_PACK}".encode())
    for path in (ROOT / REQUIREMENTS, *_sources()):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _run(*command: str) -> None:
    ended = subprocess.run(command, stdout=sys.stderr, check=False)
    if ended.returncode:
        raise DeployError(f"this failed: {' '.join(command)}")
