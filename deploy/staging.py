"""Assembles the folder that a function is deployed from: the files it needs and no others."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from clip_embeddings.engine.manifest import Manifest, find_model_folder, sha256_of, slug
from clip_embeddings.label_settings import LABELS_FILE
from clip_embeddings.paths import MODEL_CACHE, ROOT
from deploy.artifact import Artifact
from deploy.errors import DeployError
from deploy.labels import labels_identity, write_labels
from deploy.options import PYTHON

MB = 1_000_000

# The content hash of a staged folder is in a file beside it, whose name ends with this.
HASH_SUFFIX = ".hash"

# Without this file gcloud would leave out what .gitignore names, which includes baked models.
GCLOUDIGNORE = (
    "# Everything here is uploaded, this file and compiled code aside.\n.gcloudignore\n__pycache__/\n"
)

# The container of a Cloud Run job. Arguments of an execution are the arguments of the module.
DOCKERFILE = """\
FROM python:{python}-slim
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
RUN python -m compileall -q .
ENV PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "functions.{function}"]
"""


def stage(artifact: Artifact, out: Path) -> str:
    """Assemble `out` anew and return its content hash, which is also written to the file `out`.hash.

    Raises:
        DeployError: the function is not in this checkout, a model file is not what its manifest says, or the
            labels of photos cannot be embedded.
        ModelError: the model is not baked, or lacks a tower.
    """
    code = artifact.code()
    manifests = {find_model_folder(model, MODEL_CACHE): artifact.manifest(model) for model in artifact.models}
    # Assembled in a folder beside `out`, which is renamed once it is complete, because `out` must not be left
    # incomplete when a run is interrupted.
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, text in _generated_files(artifact).items():
        (part / name).write_text(text, encoding="utf-8")
    for source in code:
        _copy(source, part / source.relative_to(ROOT))
    for folder, manifest in manifests.items():
        _copy_model(folder, manifest, artifact.function.towers, part / "model_cache" / slug(manifest.name))
        if artifact.label_settings:
            target = part / "model_cache" / slug(manifest.name) / LABELS_FILE
            write_labels(artifact.function.name, folder, artifact.label_settings, target)
    digest = _hash(part)
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    out.with_name(f"{out.name}{HASH_SUFFIX}").write_text(digest + "\n")
    return digest


def report(out: Path) -> str:
    """A line with the sizes of a staged folder."""
    total, model = (
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MB
        for folder in (out, out / "model_cache")
    )
    return f"{out}: {total:.1f} MB (model {model:.1f}, code {total - model:.1f})"


def _generated_files(artifact: Artifact) -> dict[str, str]:
    name = artifact.function.name
    files = {"requirements.txt": artifact.requirements(), ".gcloudignore": GCLOUDIGNORE}
    if artifact.function.is_job:
        return {**files, "Dockerfile": DOCKERFILE.format(python=PYTHON, function=name)}
    return {**files, "main.py": f"from functions.{name} import {name}\n"}


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _copy_model(folder: Path, manifest: Manifest, towers: Sequence[str], target: Path) -> None:
    _copy(folder / "manifest.json", target / "manifest.json")
    present = [manifest.towers[tower] for tower in towers if tower in manifest.towers]
    for file in dict.fromkeys(file for tower in present for file in tower.files):
        _copy(folder / file.path, target / file.path)
        if sha256_of(target / file.path) != file.sha256:
            raise DeployError(
                f"{folder / file.path} is damaged: its SHA-256 is not the one in manifest.json. "
                "Bake the model again or restore the file."
            )


def _hash(folder: Path) -> str:
    """16 hexadecimal digits over every file's name and bytes.

    Another CPU rounds the vectors of labels otherwise, so what they are made of counts in their place.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = labels_identity(path) if path.name == LABELS_FILE else sha256_of(path)
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()[:16]
