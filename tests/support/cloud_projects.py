"""deploy.sh with the real gcloud, logged in to a project that a local server plays."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.deploy_script import deploy_sh, gcloud_environment
from tests.support.google_apis import PROJECT, GoogleApis

# What every function needs.
NEEDED = ("run", "cloudbuild", "artifactregistry", "cloudresourcemanager", "iam", "storage")


def enable(apis: GoogleApis, *others: str) -> None:
    """Enable the APIs that every function needs, and others."""
    apis.enabled = {f"{name}.googleapis.com" for name in (*NEEDED, *others)}


def logged_in(apis: GoogleApis, folder: Path) -> dict[str, str]:
    """The environment of a person who is logged in to what `apis` plays."""
    return {**gcloud_environment(folder), **apis.environment(folder), "RETRY_SECONDS": "0"}


def deploy_to(apis: GoogleApis, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """deploy.sh with the real gcloud, artifacts below `folder`."""
    options = (f"--project={PROJECT}", "--model=demo", f"--build-dir={folder / 'build'}")
    return deploy_sh(*options, *arguments, folder=folder, **logged_in(apis, folder))  # type: ignore[arg-type]
