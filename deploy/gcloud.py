"""Calls gcloud: its arguments, its configuration, and whether it is installed and logged in."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from deploy.errors import DeployError
from deploy.execution import output
from deploy.steps import Command

# In order of preference.
SEPARATORS = (",", "|", ";", "#", ":::", "@@@")

GET_PROJECT = ("gcloud", "config", "get-value", "project")


def in_project(project: str, *arguments: str) -> Command:
    """A gcloud command with --project, so that it does not depend on the user's own configuration."""
    return ("gcloud", *arguments, f"--project={project}")


def join_values(values: Sequence[str]) -> str:
    """`values` as one argument, separated by commas, or by another separator if a value contains a comma.

    https://cloud.google.com/sdk/gcloud/reference/topic/escaping

    Raises:
        DeployError: the values contain every separator.
    """
    for separator in SEPARATORS:
        # The separator must not begin inside a value, not even with the last characters of one.
        if all((value + separator).index(separator) == len(value) for value in values):
            joined = separator.join(values)
            return joined if separator == "," else f"^{separator}^{joined}"
    raise DeployError(f"these values hold everything that could separate them: {' '.join(values)}")


def check_ready() -> None:
    """Raises DeployError if gcloud is not installed or not logged in."""
    if shutil.which("gcloud") is None:
        raise DeployError(
            "gcloud is not installed: follow https://cloud.google.com/sdk/docs/install, then run gcloud init."
        )
    token = ("gcloud", "auth", "print-access-token", "--quiet")
    if output(token, quiet=True) is None:
        raise DeployError("gcloud is not logged in, or no longer: run gcloud auth login.")


def chosen_project() -> str:
    """The project of gcloud's own configuration. Raises DeployError if there is none."""
    project = output(GET_PROJECT, quiet=True)
    if not project or project == "(unset)":
        raise DeployError(
            "no project is chosen: run gcloud config set project PROJECT, or name one with --project."
        )
    return project


def confirm(question: str) -> bool:
    """Whether the person at the terminal agrees; without a terminal, False."""
    if not sys.stdin.isatty():
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().startswith(("y", "Y"))
