"""What one function is deployed from: the files it needs and no others, in a folder of its own.

    python3 -m deploy.stage FUNCTION --model NAME [--model NAME] --towers text,image --out FOLDER
    python3 -m deploy.stage FUNCTION --model NAME [--model NAME] --towers text,image --describe

deploy.sh calls it with a row of its table. Needs only Python's standard library.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_embeddings.engine.manifest import (
    TOWERS,
    Manifest,
    ModelError,
    load_manifest,
    locate,
    sha256_of,
    slug,
)
from model_cache.baking import catalogue

ROOT = Path(__file__).resolve().parent.parent
MODEL_CACHE = ROOT / "model_cache"
MB = 1_000_000

# Packages that only one kind of input needs: a function for texts installs no picture libraries.
ONLY = {
    "text": {"ftfy", "regex", "tokenizers"},
    "image": {"pillow", "pillow-heif", "requests", "requests-hardened"},
}

# They answer for the towers that a model has; the others do so where they serve several models.
PARTIAL = {"jobs", "run_job", "gateway"}

# Without this file gcloud would leave out whatever .gitignore names, the model first of all.
GCLOUDIGNORE = (
    "# Everything here is uploaded, this file and compiled code aside.\n.gcloudignore\n__pycache__/\n"
)

# A Cloud Run job: its arguments go to the module, as on the command line.
DOCKERFILE = """\
FROM python:3.13-slim
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
ENV PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "functions.{function}"]
"""

# Cloud Run's memory settings, in MB. Resident, as measured: 200 MB without weights, and 1.3 times the
# size of the weights; a picture of 50 million pixels takes 450 MB while it is decoded. A tenth stays free.
MEMORY = {"512Mi": 537, "1Gi": 1074, "2Gi": 2147, "4Gi": 4295, "8Gi": 8590, "16Gi": 17180, "32Gi": 34360}
BASE_MB, PER_MODEL_MB, DECODE_MB, FREE = 200, 1.3, 450, 0.9

# Of a model that is not baked yet, for a plan: an int8 ViT-B/32.
TYPICAL = {"text": 67 * MB, "image": 97 * MB}
TYPICAL_DIMENSIONS = 512


class StageError(Exception):
    """The artifact cannot be made. The message says what to do."""


@dataclass(frozen=True)
class Function:
    """What deploy.sh's table says about one function."""

    name: str
    towers: tuple[str, ...]
    # A requirements file, relative to the repository.
    requirements: str
    # A Cloud Run job runs as a module and ends; a function answers requests.
    job: bool


def stage(function: Function, models: Sequence[str], out: Path) -> str:
    """Assemble `out` anew and return its content hash, which is also left in `out`.hash.

    Raises:
        StageError: there is no such function, or a model file is not what its manifest says.
        ModelError: the model is not baked, or lacks a tower.
    """
    if not (ROOT / "functions" / f"{function.name}.py").is_file():
        raise StageError(
            f"There is no functions/{function.name}.py in this checkout: {function.name} cannot be staged."
        )
    manifests = {locate(model, MODEL_CACHE): _manifest(function, model, models) for model in models}
    # Built beside and renamed, so that an interrupted stage leaves nothing that looks whole.
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for path, text in _written(function).items():
        (part / path).write_text(text, encoding="utf-8")
    for source in _code():
        _copy(source, part / source.relative_to(ROOT))
    for folder, manifest in manifests.items():
        _copy_model(folder, manifest, function.towers, part / "model_cache" / slug(manifest.name))
    digest = _hash(part)
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    out.with_name(f"{out.name}.hash").write_text(digest + "\n")
    return digest


def _manifest(function: Function, model: str, models: Sequence[str]) -> Manifest:
    partial = function.name in PARTIAL or len(models) > 1
    try:
        return load_manifest(locate(model, MODEL_CACHE), function.towers, allow_missing_towers=partial)
    except ModelError as error:
        raise ModelError(f"{function.name}: {error}") from None


def _written(function: Function) -> dict[str, str]:
    files = {"requirements.txt": requirements(function), ".gcloudignore": GCLOUDIGNORE}
    if function.job:
        return {**files, "Dockerfile": DOCKERFILE.format(function=function.name)}
    return {**files, "main.py": f"from functions.{function.name} import {function.name}\n"}


def requirements(function: Function) -> str:
    """The lines of the function's requirements file, and of those it includes, that its towers need."""
    unneeded = set[str]().union(*(ONLY[tower] for tower in TOWERS if tower not in function.towers))
    lines = _lines(ROOT / function.requirements)
    return "".join(f"{line}\n" for line in lines if re.split(r"[^A-Za-z0-9._-]", line)[0] not in unneeded)


def _lines(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise StageError(f"{path.relative_to(ROOT)} is missing in this checkout.")
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            yield from _lines((path.parent / line[3:].strip()).resolve())
        elif line and not line.startswith("#"):
            yield line


def _code() -> Iterator[Path]:
    for path in sorted([*(ROOT / "functions").rglob("*"), *(ROOT / "clip_embeddings").rglob("*")]):
        kept = path.suffix != ".pyc" and not re.fullmatch(r"requirements.*\.txt|\..*", path.name)
        if path.is_file() and kept:
            yield path


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _copy_model(folder: Path, manifest: Manifest, towers: Sequence[str], target: Path) -> None:
    _copy(folder / "manifest.json", target / "manifest.json")
    present = [manifest.towers[tower] for tower in towers if tower in manifest.towers]
    for file in dict.fromkeys(file for tower in present for file in tower.files):
        _copy(folder / file.path, target / file.path)
        if sha256_of(target / file.path) != file.sha256:
            raise StageError(
                f"{folder / file.path} is damaged: its SHA-256 is not the one in manifest.json. "
                "Bake the model again or restore the file."
            )


def _hash(folder: Path) -> str:
    """16 hexadecimal digits over every file's name and bytes."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()[:16]


def report(out: Path) -> str:
    """What a person wants to know about a staged folder."""
    total, model = (
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MB
        for folder in (out, out / "model_cache")
    )
    return f"{out}: {total:.1f} MB (model {model:.1f}, code {total - model:.1f})"


def describe(function: Function, models: Sequence[str], *, assume: bool) -> str:
    """`NAME,... DIMENSIONS MEMORY`: the models, the first one's, and the Cloud Run setting that holds all.

    With `assume`, a model that is not baked has the catalogue's dimensions and the size of an int8 ViT-B/32.
    """
    names, dimensions, sizes = [], [], []
    for model in models:
        try:
            manifest = _manifest(function, model, models)
        except ModelError:
            if not assume:
                raise
            entry = catalogue.find(model)
            names.append(slug(entry.name if entry else model))
            dimensions.append(entry.dimensions if entry else TYPICAL_DIMENSIONS)
            sizes += [TYPICAL[tower] for tower in function.towers]
        else:
            names.append(slug(manifest.name))
            dimensions.append(manifest.dimensions)
            present = [manifest.towers[tower] for tower in function.towers if tower in manifest.towers]
            sizes += [file.bytes for tower in present for file in tower.files]
    return f"{','.join(dict.fromkeys(names))} {dimensions[0]} {memory(function, sizes)}"


def memory(function: Function, sizes: Sequence[int]) -> str:
    """The smallest Cloud Run memory setting for models' files of `sizes` bytes."""
    needed = BASE_MB + PER_MODEL_MB * sum(sizes) / MB + (DECODE_MB if "image" in function.towers else 0)
    for setting, megabytes in MEMORY.items():
        if needed <= FREE * megabytes:
            return setting
    raise StageError(f"{function.name} would need {needed / 1000:.0f} GB of memory, more than Cloud Run has.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m deploy.stage")
    parser.add_argument("function")
    parser.add_argument("--model", required=True, action="append", help="may be repeated; the first answers")
    parser.add_argument("--towers", required=True, help="such as text,image; - for none")
    parser.add_argument("--requirements", default="requirements.txt")
    parser.add_argument("--job", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--describe", action="store_true")
    parser.add_argument("--assume", action="store_true")
    options = parser.parse_args(argv)
    towers = () if options.towers == "-" else tuple(options.towers.split(","))
    models = tuple(dict.fromkeys(options.model))
    function = Function(options.function, towers, options.requirements, options.job)
    try:
        if options.describe:
            print(describe(function, models, assume=options.assume))
        else:
            digest = stage(function, models, options.out)
            print(f"{report(options.out)}, content {digest}")
    except (StageError, ModelError, OSError) as error:
        print(f"deploy.sh: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
