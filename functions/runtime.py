"""What a serving process holds: its settings, its model, what bounds the work."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from functions.config import MODEL_CACHE, ConfigError, Settings, load_settings
from functions.engine.cpus import usable_cpus
from functions.engine.gate import Gate
from functions.engine.lazy import Lazy
from functions.engine.manifest import ModelError, slug
from functions.engine.model import Model, check_canary, load_model
from functions.errors import CallerError
from functions.logs import logger, setup_logging

DEMO = "demo"


@dataclass(frozen=True)
class Runtime:
    """Everything a request needs beside itself. `name` is the function's, `towers` are what it serves."""

    name: str
    towers: tuple[str, ...]
    settings: Settings
    model: Model
    # As many pictures are decoded at once as there are CPUs, over all requests: decoding takes memory.
    decode_gate: Gate
    ready: Lazy[bool]

    def choose(self, name: str | None) -> Model:
        """The model a request asks for by `name`. Raises CallerError 404 if it is not served here."""
        served = self.model.manifest.name
        if name is None or slug(name) == served:
            return self.model
        raise CallerError(
            404, "model_unknown", f"The model {name[:100]!r} is not served here; {served!r} is."
        )

    def loaded(self) -> bool:
        """Whether a tower has been opened."""
        return self.model.text.made or self.model.image.made


def start(name: str, towers: tuple[str, ...]) -> Runtime:
    """Read the settings and check the model's files; a wrong setup ends the process with a sentence."""
    try:
        settings = load_settings()
        setup_logging(settings.log_level, in_cloud=settings.in_cloud)
        runtime = make_runtime(name, towers, settings)
    except (ConfigError, ModelError) as error:
        sys.exit(f"{name} cannot start: {error}")
    _give_memory_back()
    if runtime.model.manifest.name == DEMO and not os.environ.get("MODEL"):
        logger.warning("MODEL is not set: serving the bundled demo model, which knows emoji and little else.")
    return runtime


def _give_memory_back() -> None:
    """Have buffers of a megabyte or more returned to the system when they are freed, as glibc does at first.

    Left alone it raises that size with every large buffer it sees freed: a few large pictures, and each
    thread keeps hundreds of megabytes. mallopt(3), M_MMAP_THRESHOLD.
    """
    # Other C libraries have no mallopt.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(-3, 1024 * 1024)


def make_runtime(name: str, towers: tuple[str, ...], settings: Settings) -> Runtime:
    """A runtime for `settings`. Raises ModelError if the model's files are missing or damaged."""
    cpus = settings.threads or usable_cpus()
    # One run at a time uses every CPU: measured, two at once on the same CPUs finish no sooner.
    gate = Gate(width=1, queue=settings.queue)
    model = load_model(model_folder(settings.model), towers, threads=cpus, gate=gate)

    def check() -> bool:
        for tower in towers:
            check_canary(model, tower)
        return True

    return Runtime(
        name=name,
        towers=towers,
        settings=settings,
        model=model,
        decode_gate=Gate(width=cpus, queue=sys.maxsize),
        ready=Lazy(check),
    )


def model_folder(model: str) -> Path:
    """Where the model named by the setting MODEL is: a folder, or a name that was baked."""
    given = Path(model)
    is_folder = given.is_absolute() or (given / "manifest.json").is_file()
    return given if is_folder else MODEL_CACHE / slug(model)
