"""Sets a process up: settings, logging, memory, models, and the server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module

from clip_embeddings import malloc
from clip_embeddings.api_key import has_key
from clip_embeddings.config import load_settings
from clip_embeddings.cpus import usable_cpus
from clip_embeddings.engine.session import OpenedSessions
from clip_embeddings.functions import Function
from clip_embeddings.logs import logger, setup_logging
from clip_embeddings.paths import DEMO
from clip_embeddings.runtime import Runtime, make_runtime
from clip_embeddings.server.gunicorn_settings import use_our_worker
from clip_embeddings.server.limits import ServerLimits
from clip_embeddings.setting_names import misspelled_settings


def start_runtime(function: Function, sessions: OpenedSessions) -> Runtime:
    """Read the settings, set up logging, and check the files of the models that `function` holds.

    Args:
        sessions: those that are opened ahead.

    Raises:
        ConfigError: a setting is invalid or asks for what is not installed.
        ModelError: a model's files are missing or damaged.
    """
    settings = load_settings()
    if function.is_job:
        # It has no first reply to be early with.
        settings = replace(settings, verify_before_serving=True)
    setup_logging(settings.log_level, in_cloud=settings.in_cloud)
    for variable, setting in misspelled_settings(os.environ).items():
        logger.warning(f"{variable} is not a setting; did you mean {setting}?")
    runtime = make_runtime(
        function.name,
        function.towers,
        settings,
        allow_missing_towers=function.allow_missing_towers,
        sessions=sessions,
    )
    malloc.tune()
    named = os.environ.get("MODEL") or os.environ.get("MODELS")
    if runtime.models and runtime.default_model().manifest.name == DEMO and not named:
        logger.warning("MODEL is not set: serving the bundled demo model, which knows emoji and little else.")
    return runtime


def prepare_server(runtime: Runtime) -> None:
    """Have gunicorn serve with our worker, with the limits of `runtime`."""
    settings = runtime.settings
    limits = ServerLimits(
        body_bytes=settings.limits.request_bytes,
        body_timeout=settings.limits.body_timeout,
        bodies=runtime.memory.bodies,
        # Requests may wait for memory and for the model, each up to MAX_WAITING. A few more threads answer
        # that there is no room, and whether the function is healthy.
        threads=2 * settings.queue + usable_cpus() + 8,
        wants_body=lambda headers: has_key(partial(_header, headers), settings.api_key),
        after_reply=runtime.verification.start,
    )
    use_our_worker(limits)


def import_decoders() -> None:
    """Import what the first picture needs, so that it does not wait for that."""
    import_module("clip_embeddings.engine.preprocess")
    import_module("clip_embeddings.images.decoding")
    import_module("PIL.JpegImagePlugin")


def _header(headers: Mapping[str, str], name: str) -> str:
    return headers.get(name.upper(), "")
