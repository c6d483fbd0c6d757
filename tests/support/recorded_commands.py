"""Runs a shell block with recorders in the place of its programs, and checks the calls as far as possible.

gcloud's own parser checks its calls; deploy.sh and make do a dry run; the options of Python modules must be
in their --help.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tests.support.deploy_script import deploy_sh
from tests.support.serving import ROOT, environment

# Programs that pages name without a path, and those that they name with one.
PROGRAMS = ("gcloud", "bq", "make", "docker", "curl", "git", "python3")
PATHS = (
    "deploy.sh",
    ".venv/bin/python",
    ".venv/bin/pip",
    ".venv-bake/bin/python",
    ".venv-spark/bin/python",
    ".venv-spark/bin/pip",
    ".venv-bake/bin/pip",
    ".venv-test/bin/python",
    ".venv-test/bin/pre-commit",
    ".venv-test/bin/pip",
    ".ci/run",
)

# One write, so that the two ends of a pipe do not mix. It reads its input, so that the other end can write.
RECORDER = """#!/bin/sh
printf '%s\\0' "{name}" "$@" '' >>"$RECORD"
cat >/dev/null
"""


def record(script: str, folder: Path) -> list[list[str]]:
    """Paste `script` into a shell where every program only writes down how it was called.

    Returns:
        The calls in order, each with the program's name first.
    """
    tools = folder / "bin"
    for path in (*(tools / name for name in PROGRAMS), *(folder / name for name in PATHS)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(RECORDER.format(name=path.relative_to(tools if path.parent == tools else folder)))
        path.chmod(0o755)
    log = folder / "record"
    log.write_bytes(b"")
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={
            "PATH": f"{tools}:{os.environ['PATH']}",
            "HOME": str(folder),
            "RECORD": str(log),
            "KEY": "secret",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return [call.split("\0") for call in log.read_bytes().decode().split("\0\0") if call]


def check(call: Sequence[str], folder: Path) -> None:
    """Assert that a program would take a call. gcloud's calls are left to `gcloud_parser`, all at once."""
    program, *arguments = call
    name = Path(program).name
    if name == "deploy.sh":
        ended = deploy_sh("--dry-run", *arguments, folder=folder)
    elif name == "make":
        ended = _run(["make", "--dry-run", *arguments])
    elif name == "pip":
        files = [arguments[index + 1] for index, word in enumerate(arguments) if word == "-r"]
        missing = [file for file in files if not (ROOT / file).is_file()]
        assert not missing, f"there is no {missing} to install"
        return
    elif name in ("python", "python3") and arguments[0] == "-m" and arguments[1] not in ("venv", "pip"):
        text = _help(arguments[1])
        unknown = [word for word in arguments[2:] if word.startswith("--") and word not in text]
        assert not unknown, f"python -m {arguments[1]} has no {unknown}"
        return
    else:
        return
    assert ended.returncode == 0, ended.stderr


@cache
def _help(module: str) -> str:
    ended = _run([sys.executable, "-m", module, "--help"])
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=environment({}), capture_output=True, text=True, timeout=120, check=False
    )
