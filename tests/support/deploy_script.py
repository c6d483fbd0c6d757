"""deploy.sh as a person runs it, and a gcloud and a curl that only record how they were called."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from clip_embeddings.functions import FUNCTIONS
from tests.support.serving import ROOT

GCLOUD = shutil.which("gcloud")
needs_gcloud = pytest.mark.skipif(GCLOUD is None, reason="gcloud is not installed")

NAMES = tuple(function.name for function in FUNCTIONS)

# What deploy.sh needs beside Python. A machine with these alone has no gcloud.
TOOLS = ("bash", "env", "cat", "dirname")

# Answers where a plan looks something up; everything else prints nothing, so that it does not exist yet.
RECORDER = """#!/usr/bin/env bash
printf '%s\\0' "$@" >>"$RECORD"
printf '\\0' >>"$RECORD"
case "$*" in
  *"get-value project"*) echo my-project ;;
  *"value(projectNumber)"*) echo 123456789012 ;;
  *"storage service-agent"*) echo service@example.iam.gserviceaccount.com ;;
  *"location.lower()"*) echo europe-west4 ;;
  *"status.url"*) echo https://function.example ;;
  *"latestReadyRevisionName"*) [ ! -e "$RECORD.revision" ] || cat "$RECORD.revision" ;;
  *"extract(url)"*) echo https://candidate---function.example ;;
  *"print-identity-token"*) echo identity ;;
  *"value(location)"*) echo US ;;
  *"name=ALLOWED_BUCKETS"*) echo ALLOWED_BUCKETS ;;
  *"name=MODEL"*) echo MODEL ;;
  *"triggers list"*"value(name)"*) echo projects/my-project/locations/eu/triggers/run-job ;;
esac
"""

# The connection does not exist until it is made.
BQ = """#!/usr/bin/env bash
{ printf '%s\\0' "$@"; printf '\\0'; } >>"$RECORD.bq"
case "$*" in
  *"mk --connection"*) : >"$RECORD.connection" ;;
  *"show --connection"*)
    [ -e "$RECORD.connection" ] || { echo 'Not found: Connection'; exit 2; }
    echo '{"cloudResource":{"serviceAccountId":"bqcx-1-a@gcp-sa-bigquery.example"}}' ;;
esac
"""

# What a function is asked, with its standard input.
CURL = """#!/usr/bin/env bash
{ printf '%s\\n' "$*"; cat; } >>"$RECORD.curl"
[ ! -e "$RECORD.not-ready" ]
"""


def deploy_sh(
    *arguments: str, folder: Path, checkout: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run deploy.sh of `checkout` from `folder`, with as little as it needs and `environment` set."""
    env = {"PATH": str(bare_path(folder)), "HOME": str(folder), **environment}
    return subprocess.run(
        [str(checkout / "deploy.sh"), *arguments],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def bare_path(folder: Path) -> Path:
    """A folder with links to what deploy.sh needs, and no gcloud."""
    tools = folder / "tools"
    if not tools.exists():
        tools.mkdir()
        for tool in TOOLS:
            (tools / tool).symlink_to(Path(shutil.which(tool) or tool).resolve())
        # Without installed packages: what deploy.sh runs needs none.
        python = tools / "python3"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
        python.chmod(0o755)
    return tools


def recorder(folder: Path) -> dict[str, str]:
    """The environment in which gcloud writes its calls to `folder`/record."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    for name, script in (("gcloud", RECORDER), ("curl", CURL), ("bq", BQ)):
        (bin_folder / name).write_text(script)
        (bin_folder / name).chmod(0o755)
    return {"PATH": f"{bin_folder}:{bare_path(folder)}", "RECORD": str(folder / "record")}


def recorded(folder: Path, name: str = "record") -> list[list[str]]:
    """The arguments of each call of gcloud, in order; with `record.bq`, those of bq."""
    path = folder / name
    if not path.exists():
        return []
    return [call.split("\0") for call in path.read_bytes().decode().split("\0\0") if call]


def paste(plan: str, folder: Path) -> list[list[str]]:
    """Run a plan in a shell as a person would paste it; what gcloud and deploy.sh were called with."""
    paste_and_read(plan, folder)
    return recorded(folder)


def paste_and_read(plan: str, folder: Path) -> str:
    """Run a plan in a shell as a person would paste it; what it prints."""
    for name in NAMES:
        for build in ("build", "out"):
            (folder / build).mkdir(exist_ok=True)
            (folder / build / f"{name}.hash").write_text("0123456789abcdef\n")
    environment = recorder(folder)
    shutil.copy(folder / "bin" / "gcloud", folder / "deploy.sh")
    # Only pasted plans need it.
    (folder / "bin" / "grep").unlink(missing_ok=True)
    (folder / "bin" / "grep").symlink_to(Path(shutil.which("grep") or "grep").resolve())
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", plan],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def gcloud_environment(folder: Path) -> dict[str, str]:
    """gcloud without the person's settings and logins, which asks nothing and reports nothing."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "CLOUDSDK_CONFIG": str(folder / "gcloud"),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
    }


def flag(call: Sequence[str], name: str) -> str:
    """The value of --NAME in a call."""
    (word,) = [word for word in call if word.startswith(f"--{name}=")]
    return word.partition("=")[2]
