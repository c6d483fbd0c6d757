"""The environments of the services to compare with: one each, because their packages do not fit together."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.measure import Progress
from tests.bench.weights import BUILD
from tests.support.serving import ROOT

_REQUIREMENTS = Path(__file__).with_name("peers")
# What is installed, by name of environment.
REQUIREMENTS = {
    "functions": ROOT / "requirements.txt",
    "fastembed": _REQUIREMENTS / "fastembed.txt",
    "infinity": _REQUIREMENTS / "infinity.txt",
    "open_clip": _REQUIREMENTS / "open_clip.txt",
    "transformers": _REQUIREMENTS / "transformers.txt",
}


class InstallationError(Exception):
    """An environment cannot be made. The message says why, in one line."""


def install(name: str, progress: Progress) -> str:
    """Make the environment `name`, unless it is up to date. Returns the path of its interpreter.

    Raises:
        InstallationError: pip failed.
    """
    folder, requirements = _folder(name), REQUIREMENTS[name]
    if python := installed(name):
        return python
    progress(f"installing {requirements.relative_to(ROOT)} ...")
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    python = str(folder / "bin" / "python")
    _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)])
    (folder / "installed").write_text(_digest(requirements))
    return python


def installed(name: str) -> str | None:
    """The interpreter of the environment `name` if it is complete and up to date."""
    stamp = _folder(name) / "installed"
    if stamp.exists() and stamp.read_text() == _digest(REQUIREMENTS[name]):
        return str(_folder(name) / "bin" / "python")
    return None


def megabytes(name: str) -> float:
    """Size of what pip installed into the environment `name`, in MB of 10^6 bytes.

    Without pip and setuptools, which every environment has, and without compiled Python, which is written
    when it is first used.
    """
    return sum(_size(path) for path in packages(name).iterdir() if not is_of_venv(path)) / 1e6


def packages(name: str) -> Path:
    """The folder of the packages of the environment `name`."""
    (folder,) = (_folder(name) / "lib").glob("python3*/site-packages")
    return folder


def is_of_venv(path: Path) -> bool:
    """Whether `path` belongs to what every virtual environment has: pip and setuptools."""
    return path.name.partition("-")[0] in ("pip", "setuptools", "_distutils_hack", "pkg_resources")


def versions(name: str, names: Sequence[str]) -> str:
    """The installed versions of the packages `names`, as text."""
    code = (
        "import importlib.metadata, json, sys;"
        "print(json.dumps([importlib.metadata.version(name) for name in sys.argv[1:]]))"
    )
    python = _folder(name) / "bin" / "python"
    found = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True)
    return ", ".join(
        f"{package} {version}" for package, version in zip(names, json.loads(found.stdout), strict=True)
    )


def _folder(name: str) -> Path:
    return BUILD / "environments" / name


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _run(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        output = (ended.stderr + ended.stdout).strip().splitlines() or [f"exit status {ended.returncode}"]
        errors = [line for line in output if line.startswith("ERROR")]
        raise InstallationError((errors or output)[-1][:200])


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(
        file.stat().st_size
        for file in files
        if file.is_file() and not file.is_symlink() and file.suffix != ".pyc"
    )
