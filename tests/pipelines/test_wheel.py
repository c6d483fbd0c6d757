"""The wheel of the library: what it holds, what it needs, and that it embeds without what serving needs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.serving import ROOT, environment

SERVING = {"functions_framework", "flask", "gunicorn", "werkzeug", "cloudevents"}
# Embeds a text and a picture, and tells whose package did it.
PROGRAM = """
import sys
from pathlib import Path
from clip_embeddings.bulk.rows import SourceRow
from clip_embeddings.bulk.worker import WorkerOptions, embed_rows
import clip_embeddings
model, picture = sys.argv[1:]
settings = (("MEMORY_LIMIT", "1Gi"), ("MODEL", model), ("MODEL_THREADS", "1"))
(text,) = embed_rows([SourceRow("t", text="a caf\\u00e9")], WorkerOptions("text", settings))
(image,) = embed_rows([SourceRow(Path(picture).as_uri())], WorkerOptions("image", settings))
assert text.vector is not None and image.vector is not None, (text.error, image.error)
loaded = {name.partition(".")[0] for name in sys.modules}
print(Path(clip_embeddings.__file__).parent.parent, *sorted(loaded & set(%r)))
"""
PICTURE = ROOT / "model_cache" / "demo" / "pictures" / "cat-face.png"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, because a build leaves files beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    shutil.copy(ROOT / "pyproject.toml", source)
    for name in ("clip_embeddings", "functions", "deploy", "pipelines", "dev"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "."]
    subprocess.run([*command, "--wheel-dir", str(folder)], cwd=source, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_it_holds_the_library_with_its_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}

    library = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "clip_embeddings").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == library
    assert "clip_embeddings/search/page/search.html" in names


def test_it_needs_what_functions_install_but_not_what_serves_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = {line.replace("==", ">=") for line in lines if re.match("[a-z]", line)}

    serving = {line for line in pinned if line.startswith("functions-framework")}
    assert len(serving) == 1
    assert set(project["dependencies"]) == pinned - serving


def test_pins_are_the_same_in_every_file() -> None:
    pins: dict[str, set[str]] = {}
    for path in (
        *ROOT.glob("requirements*/*.txt"),
        *ROOT.glob("*/requirements*.txt"),
        ROOT / "requirements.txt",
    ):
        for line in path.read_text().splitlines():
            name, equals, version = line.partition("==")
            if equals:
                pins.setdefault(name, set()).add(version)

    assert {name: versions for name, versions in pins.items() if len(versions) > 1} == {}


def test_it_embeds_without_what_serving_needs(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    # A module of that name cannot be imported.
    blocked = f"import sys\nfor name in {sorted(SERVING)!r}:\n    sys.modules[name] = None\n"
    (tmp_path / "program.py").write_text(blocked + PROGRAM % ((),))

    assert embed_with(Path(sys.executable), tmp_path / "program.py", tmp_path) == [str(tmp_path)]


@pytest.mark.full
def test_it_embeds_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (tmp_path / "program.py").write_text(PROGRAM % (sorted(SERVING),))

    where, *serving = embed_with(venv / "bin" / "python", tmp_path / "program.py", tmp_path)

    assert Path(where).is_relative_to(venv)
    assert serving == []
    present = subprocess.run(
        [venv / "bin" / "pip", "freeze"], capture_output=True, text=True, check=True
    ).stdout
    assert not SERVING & {line.partition("==")[0].lower().replace("-", "_") for line in present.splitlines()}


def embed_with(python: Path, program: Path, folder: Path) -> list[str]:
    """What the program prints, run outside of the checkout."""
    ended = subprocess.run(
        [str(python), str(program), str(ROOT / "model_cache" / "demo"), str(PICTURE)],
        cwd=folder,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()
