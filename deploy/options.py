"""The options of deploy.sh, in one table: name, variable, default, help, allowed values."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_embeddings import label_settings
from clip_embeddings.index.registry import COLLECTION, PROJECT
from clip_embeddings.postgres_url import SCHEME, mask_password, parse_postgres_url
from clip_embeddings.setting_values import BUCKET_NAME, index_url
from deploy.errors import DeployError, quote_for_message
from deploy.settings import read_pair
from model_cache.baking.catalogue import DEFAULT_MODEL

# The version of Python that functions run on.
PYTHON = "3.13"

# Seconds that --timeout overrides: of a request, of an event, of a Cloud Run job.
REQUEST_TIMEOUT, EVENT_TIMEOUT, JOB_TIMEOUT = "60", "540", "86400"

NUMBER = (r"[0-9]{1,7}", "a whole number")
BUCKET = (BUCKET_NAME, "a bucket's name, without gs://")
ACCOUNT = (r"[a-z0-9-]+@[a-z0-9.-]+\.gserviceaccount\.com", "a service account's email")
SECRET = (r"[A-Za-z0-9_][A-Za-z0-9_-]*", "a secret's name")
FOLDER = (r"[^-\x00-\x1f\x7f][^\x00-\x1f\x7f]*", "a name or a folder")
# A name in a list that is separated by commas.
ITEM = r"[^-,\x00-\x1f\x7f][^,\x00-\x1f\x7f]*"


@dataclass(frozen=True)
class Option:
    """An option with a value."""

    # The environment variable that sets it too; the option is --name, in lower case, with hyphens.
    variable: str
    # The placeholder for the value in the help.
    value: str
    help: str
    # A regular expression that the whole value matches, and its description for error messages.
    allowed: tuple[str, str]
    default: str = ""

    @property
    def name(self) -> str:
        """The option as it is typed."""
        return f"--{self.variable.lower().replace('_', '-')}"

    def check(self, value: str) -> str:
        """`value`, which may be empty. Raises DeployError if it is not allowed."""
        pattern, description = self.allowed
        if value and not re.fullmatch(pattern, value):
            shown = quote_for_message(mask_password(value))
            raise DeployError(f"{self.variable}={shown} is not valid: use {description}.")
        return value


OPTIONS = (
    Option("MODEL", "NAME", 'the baked model ({}); "demo" only if named', FOLDER, DEFAULT_MODEL),
    Option(
        "MODELS",
        "NAME,NAME",
        "others that answer beside it, for requests that name them (none)",
        (f"{ITEM}(,{ITEM})*", "names of baked models, separated by commas"),
    ),
    Option("PROJECT", "ID", "the project (gcloud's own setting)", (PROJECT, "a project's ID")),
    Option(
        "REGION",
        "REGION",
        "where functions run ({})",
        (r"[a-z]+-[a-z]+[0-9]+", "a region such as us-central1"),
        "us-central1",
    ),
    Option(
        "MEMORY",
        "SIZE",
        "such as 1Gi (the smallest that holds the function)",
        (r"[0-9]+(Mi|Gi)", "a size such as 512Mi or 1Gi"),
    ),
    Option("CPU", "N", "CPUs of an instance ({})", (r"[0-9]+(\.[0-9]+)?", "a number such as 1"), "1"),
    Option("CONCURRENCY", "N", "requests at once in an instance ({})", NUMBER, "8"),
    Option("MIN_INSTANCES", "N", "kept warm, at a cost ({})", NUMBER, "0"),
    Option("MAX_INSTANCES", "N", "bounds the bill ({})", NUMBER, "10"),
    Option(
        "TIMEOUT",
        "SECONDS",
        f"of a request ({REQUEST_TIMEOUT}; events {EVENT_TIMEOUT}, jobs {JOB_TIMEOUT})",
        NUMBER,
    ),
    Option("TASKS", "N", "parallel shares of a Cloud Run job ({})", NUMBER, "1"),
    Option(
        "BASE_IMAGE",
        "NAME",
        "the buildpack's run time ({})",
        (r"[a-z0-9][a-z0-9./-]*", "a base image such as python313"),
        f"python{PYTHON.replace('.', '')}",
    ),
    Option("JOBS_BUCKET", "NAME", "(PROJECT-clip-jobs; made where it is missing)", BUCKET),
    Option("PHOTOS_BUCKET", "NAME", "(PROJECT-clip-photos; made where it is missing)", BUCKET),
    Option("SPARK_BUCKET", "NAME", "(PROJECT-clip-spark; made where it is missing)", BUCKET),
    Option(
        "COLLECTION",
        "NAME",
        "of the index in Firestore ({})",
        (COLLECTION, "a collection's name: letters, digits, - and _"),
        "photos",
    ),
    Option(
        "INDEX",
        "URL",
        "of an index in PostgreSQL, or the name of a secret that holds it (Firestore)",
        (
            rf"[a-z]+://[^\x00-\x20\x7f]+|{SECRET[0]}",
            "the URL of an index, or the name of a secret that holds one",
        ),
    ),
    Option("INDEX_PASSWORD_SECRET", "NAME", "a secret that holds the database's password", SECRET),
    Option(
        "DATASET",
        "NAME",
        "of what BigQuery gets ({})",
        (r"[A-Za-z_][A-Za-z0-9_]{0,1023}", "a data set's name: letters, digits and _"),
        "clip",
    ),
    Option(
        "DATASET_LOCATION",
        "LOCATION",
        "of that data set (the functions' region)",
        (r"[A-Za-z]+(-[a-z]+[0-9]+)?", "a location of BigQuery such as us, eu or us-central1"),
    ),
    Option(
        "ALLOWED_BUCKETS",
        "A,B",
        "that gs:// references may name (none)",
        (f"{BUCKET_NAME}(,{BUCKET_NAME})*", "names of buckets, without gs://, separated by commas"),
    ),
    Option(
        "PHOTO_LABELS",
        "A,B|FILE",
        "that photos are tagged with, or a file with one per line (none)",
        (r"[^-\x00-\x1f\x7f][^\x00-\x1f\x7f]*", "labels separated by commas, or the path of a file"),
    ),
    Option(
        "SERVICE_ACCOUNT",
        "EMAIL",
        "functions run as it (clip-functions@PROJECT, made where missing)",
        ACCOUNT,
    ),
    Option("BUILD_SERVICE_ACCOUNT", "EMAIL", "builds them (clip-builds@PROJECT, likewise)", ACCOUNT),
    Option("TRIGGER_SERVICE_ACCOUNT", "EMAIL", "delivers events (clip-events@PROJECT, likewise)", ACCOUNT),
    Option(
        "API_KEY_SECRET",
        "NAME",
        "a secret in Secret Manager that callers must send as API key",
        SECRET,
    ),
    Option("BUILD_DIR", "FOLDER", "({})", FOLDER, "build"),
)
BY_NAME = {option.name: option for option in OPTIONS}
BY_VARIABLE = {option.variable: option for option in OPTIONS}

# Options without a value, and their descriptions in the help. --help is not among them, because it ends the
# parsing.
SWITCHES = {
    "--force": "deploy even what has not changed",
    "--dry-run": "print the commands, ready to paste, and touch nothing",
    "--yes": "do not ask",
}
PUBLIC = "--allow-unauthenticated"


@dataclass(frozen=True)
class CommandLine:
    """The parsed command line of deploy.sh."""

    # By variable: the value from the command line, else from the environment, else the default.
    values: Mapping[str, str]
    switches: frozenset[str]
    # Settings of the functions, given with --env.
    settings: Mapping[str, str]
    # What is not an option: the command and its arguments.
    positional: tuple[str, ...]

    def __getitem__(self, variable: str) -> str:
        """The value of an option, empty if it has none."""
        return self.values[variable]

    @property
    def index_secret(self) -> str:
        """The secret that holds INDEX_URL; empty if none does."""
        index = self["INDEX"]
        return "" if "://" in index else index

    @property
    def dry_run(self) -> bool:
        """Whether commands are printed and not executed."""
        return "--dry-run" in self.switches


def parse(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str] = os.environ
) -> CommandLine | None:
    """Parse the command line; None if it asks for help.

    Args:
        folder: the working directory in which deploy.sh was called.

    Raises:
        DeployError: an option does not exist or a value is not allowed.
    """
    values = {option.variable: environment.get(option.variable, "") for option in OPTIONS}
    switches, settings, positional = set[str](), dict[str, str](), list[str]()
    public = environment.get("ALLOW_UNAUTHENTICATED") or "false"
    rest = iter(arguments)
    for argument in rest:
        name, has_value, value = argument.partition("=")
        if argument in ("-h", "--help"):
            return None
        if argument == "--":
            positional += rest
        elif argument in SWITCHES or argument == PUBLIC:
            switches.add(argument)
        elif name in BY_NAME or name == "--env":
            if not has_value:
                try:
                    value = next(rest)
                except StopIteration:
                    raise DeployError(f"{name} needs a value.") from None
            if name == "--env":
                settings |= [read_pair(value)]
            elif value:
                values[BY_NAME[name].variable] = value
            else:
                raise DeployError(f"{name} is empty.")
        elif argument.startswith("-"):
            raise DeployError(f"there is no option {quote_for_message(argument)}; see --help.")
        else:
            positional.append(argument)
    for option in OPTIONS:
        option.check(values[option.variable])
        values[option.variable] = values[option.variable] or option.default
    if public not in ("true", "false"):
        raise DeployError(
            f"ALLOW_UNAUTHENTICATED={quote_for_message(public)} is not valid: use true or false."
        )
    if public == "true":
        switches.add(PUBLIC)
    _set_index_url(values["INDEX"], settings)
    values["MODEL"] = _model(values["MODEL"], folder)
    values["PHOTO_LABELS"] = _labels(values["PHOTO_LABELS"], folder)
    return CommandLine(values, frozenset(switches), settings, tuple(positional))


def _set_index_url(index: str, settings: dict[str, str]) -> None:
    """Make the URL of --index a setting. Raises DeployError if it is wrong or holds a password."""
    if index and "INDEX_URL" in settings:
        raise DeployError("use --index or --env INDEX_URL, not both.")
    if "://" in index:
        settings["INDEX_URL"] = index
    url = settings.get("INDEX_URL", "")
    try:
        has_password = bool(url) and url.startswith(f"{SCHEME}:") and parse_postgres_url(url).password
        if "://" in index:
            index_url(index)
    except ValueError as error:
        raise DeployError(f"INDEX={quote_for_message(mask_password(url))} is not valid: {error}.") from None
    if has_password:
        raise DeployError(
            "a password does not belong on a command line: keep it in Secret Manager, see "
            "--index-password-secret."
        )


def _labels(labels: str, folder: Path) -> str:
    """A file's path, relative to where deploy.sh was called, as an absolute one; a list unchanged.

    Raises:
        DeployError: there is no such file, or these are no labels.
    """
    try:
        if label_settings.is_path(labels):
            labels = os.path.abspath(folder / labels)
        if labels:
            label_settings.labels(labels)
    except ValueError as error:
        raise DeployError(f"PHOTO_LABELS={quote_for_message(labels)} is not valid: {error}.") from None
    return labels


def _model(model: str, folder: Path) -> str:
    """A model's folder, relative to where deploy.sh was called, as an absolute path; a name unchanged."""
    if "/" in model and (folder / model / "manifest.json").is_file():
        return os.path.abspath(folder / model)
    return model
