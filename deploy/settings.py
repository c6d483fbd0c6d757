"""The settings of functions that --env gives, checked by the same rules as when a function starts."""

from __future__ import annotations

import re
from collections.abc import Mapping

from clip_embeddings.config import Settings, load_settings
from clip_embeddings.errors import ConfigError
from clip_embeddings.setting_names import is_set_by_platform, nearest_setting
from deploy.errors import DeployError, quote_for_message

# Settings that have an option of their own.
WITH_OPTION = ("MODEL", "MODELS", "ALLOWED_BUCKETS", "PHOTO_LABELS")


def read_pair(argument: str) -> tuple[str, str]:
    """The name and the value of `--env NAME=VALUE`.

    A name that resembles no setting is accepted, because a library may read it.

    Raises:
        DeployError: it has another form, or its name cannot be given this way.
    """
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*=[^\x00-\x1f\x7f]*", argument):
        raise DeployError(f"--env {quote_for_message(argument)} is not valid: use NAME=VALUE.")
    name, _, value = argument.partition("=")
    if name == "API_KEY":
        raise DeployError(
            "a key does not belong on a command line: keep it in Secret Manager, see --api-key-secret."
        )
    if name in WITH_OPTION:
        raise DeployError(f"use the option for {name}, not --env.")
    if is_set_by_platform(name):
        raise DeployError(f"--env {name} is not possible: the platform sets {name} itself.")
    if setting := nearest_setting(name):
        raise DeployError(f"--env {name} is not a setting; did you mean {setting}?")
    return name, value


def read_settings(pairs: Mapping[str, str]) -> Settings:
    """The settings with which functions start. Raises DeployError if they would not start."""
    try:
        return load_settings(pairs)
    except ConfigError as error:
        raise DeployError(f"--env {error}") from None
