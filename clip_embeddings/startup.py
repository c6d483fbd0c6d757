"""Starts a function: settings, logging, memory, models.

The one place where a configuration error ends a process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from clip_embeddings import malloc, marks
from clip_embeddings.api_key import has_key
from clip_embeddings.config import load_settings
from clip_embeddings.cpus import usable_cpus
from clip_embeddings.engine.manifest import ModelError
from clip_embeddings.errors import ConfigError
from clip_embeddings.functions import find_function
from clip_embeddings.logs import logger, setup_logging
from clip_embeddings.runtime import DEMO, Runtime, make_runtime
from clip_embeddings.server.gunicorn_settings import use_our_worker
from clip_embeddings.server.limits import ServerLimits
from clip_embeddings.setting_names import misspelled_settings

T = TypeVar("T")


def start(name: str, build: Callable[[Runtime], T]) -> T:
    """What `build` makes for the function `name`. A wrong setup ends the process with one sentence."""
    try:
        runtime = start_runtime(name)
        use_our_worker(_server_limits(runtime))
        built = build(runtime)
    except (ConfigError, ModelError) as error:
        sys.exit(f"{name} cannot start: {error}")
    marks.mark("imported")
    if hasattr(os, "register_at_fork"):
        # In the process that serves. Decoders and the like are not forked by Python.
        os.register_at_fork(after_in_child=partial(marks.mark, "forked"))
    return built


def start_runtime(name: str) -> Runtime:
    """Read the settings, set up logging, and check the files of the models that the function `name` holds.

    Raises:
        ConfigError: a setting is invalid or asks for what is not installed.
        ModelError: a model's files are missing or damaged.
    """
    function = find_function(name)
    settings = load_settings()
    setup_logging(settings.log_level, in_cloud=settings.in_cloud)
    for variable, setting in misspelled_settings(os.environ).items():
        logger.warning(f"{variable} is not a setting; did you mean {setting}?")
    runtime = make_runtime(
        name, function.towers, settings, allow_missing_towers=function.allow_missing_towers
    )
    malloc.tune()
    named = os.environ.get("MODEL") or os.environ.get("MODELS")
    if runtime.models and runtime.default_model().manifest.name == DEMO and not named:
        logger.warning("MODEL is not set: serving the bundled demo model, which knows emoji and little else.")
    return runtime


def _server_limits(runtime: Runtime) -> ServerLimits:
    """What the server must know of the function."""
    settings = runtime.settings
    return ServerLimits(
        body_bytes=settings.limits.request_bytes,
        body_timeout=settings.limits.body_timeout,
        bodies=runtime.memory.bodies,
        # Requests may wait for memory and for the model, each up to MAX_WAITING. A few more threads answer
        # that there is no room, and whether the function is healthy.
        threads=2 * settings.queue + usable_cpus() + 8,
        wants_body=lambda headers: has_key(partial(_header, headers), settings.api_key),
    )


def _header(headers: Mapping[str, str], name: str) -> str:
    return headers.get(name.upper(), "")
