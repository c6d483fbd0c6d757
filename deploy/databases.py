"""A database that holds the index: how functions reach it, and the secrets with which they log in."""

from __future__ import annotations

from collections.abc import Mapping

from clip_embeddings.functions import Function
from clip_embeddings.postgres_url import SCHEME, parse_postgres_url
from deploy.options import CommandLine

# The variable from which PostgreSQL's own library takes a password.
PASSWORD = "PGPASSWORD"  # noqa: S105


def cloud_sql_instance(options: CommandLine) -> str | None:
    """`project:region:instance` if the index is in Cloud SQL, reached by the socket that Cloud Run mounts."""
    url = options.settings.get("INDEX_URL", "")
    return parse_postgres_url(url).cloud_sql_instance if url.startswith(f"{SCHEME}:") else None


def index_secrets(options: CommandLine) -> Mapping[str, str]:
    """The secrets of functions that use the index, by the variable that each is read into."""
    secrets = {PASSWORD: options["INDEX_PASSWORD_SECRET"], "INDEX_URL": options.index_secret}
    return {variable: secret for variable, secret in secrets.items() if secret}


def function_secrets(options: CommandLine, function: Function) -> Mapping[str, str]:
    """The secrets of one function, by the variable that each is read into."""
    secrets: dict[str, str] = {}
    if options["API_KEY_SECRET"] and function.is_http:
        secrets["API_KEY"] = options["API_KEY_SECRET"]
    if "index" in function.needs:
        secrets |= index_secrets(options)
    return secrets


def database_flags(options: CommandLine, function: Function) -> list[str]:
    """Flags of `gcloud run deploy` and `gcloud run jobs deploy`: secrets, and the socket of Cloud SQL."""
    flags = []
    if secrets := function_secrets(options, function):
        values = ",".join(f"{variable}={secret}:latest" for variable, secret in secrets.items())
        flags.append(f"--set-secrets={values}")
    if "index" in function.needs and (instance := cloud_sql_instance(options)):
        # Set, and not added: a function that is deployed again leaves the instance of before.
        flags.append(f"--set-cloudsql-instances={instance}")
    return flags
