"""What a serving process holds: its settings, its models, what bounds the work."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from clip_embeddings.config import MODEL_CACHE, ConfigError, Settings, load_settings, need_package
from clip_embeddings.cpus import usable_cpus
from clip_embeddings.engine.manifest import ModelError, fingerprint, locate
from clip_embeddings.engine.model import Model, check_canary, load_model
from clip_embeddings.errors import ApiError
from clip_embeddings.lazy import Lazy
from clip_embeddings.logs import logger, setup_logging
from clip_embeddings.semaphore import FairSemaphore
from clip_embeddings.setting_names import misspelled_settings

DEMO = "demo"


@dataclass(frozen=True)
class Runtime:
    """Everything a request needs beside itself. `name` is the function's, `towers` are what it serves."""

    name: str
    towers: tuple[str, ...]
    settings: Settings
    # By name; the first one answers where nothing else is said.
    models: Mapping[str, Model]
    # The names of those that answer a protocol's requests.
    protocol_models: Mapping[str, str]
    # As many pictures are decoded at once as there are CPUs, over all requests: decoding takes memory.
    decode_slots: FairSemaphore
    ready: Lazy[bool]

    def settings_model(self) -> Model:
        """The model that answers where neither the request nor its protocol names one."""
        return next(iter(self.models.values()))

    def choose(self, name: str | None, protocol: str = "native") -> Model:
        """The model for a request: the one it names, else the protocol's, else the deployment's.

        Raises:
            CallerError: 404 if it names one that is not served; the sentence lists those that are.
        """
        if name is None:
            name = self.protocol_models.get(protocol)
            return self.models[name] if name else self.settings_model()
        for model in self.models.values():
            if model.manifest.is_called(name):
                return model
        served = ", ".join(self.models)
        message = f"The model {name[:100]!r} is not served here; there is {served}."
        raise ApiError(404, "model_unknown", message)

    def image_fingerprint(self, model: Model) -> str:
        """What makes the vectors of pictures: the tower, and how pictures are decoded."""
        images = self.settings.images
        return fingerprint(model.manifest.towers["image"].fingerprint, images.exif, images.exact)

    def loaded(self) -> bool:
        """Whether a tower has been opened."""
        return any(model.text.made or model.image.made for model in self.models.values())


def start(name: str, towers: tuple[str, ...], *, allow_missing_towers: bool = False) -> Runtime:
    """Read the settings and check the models' files; a wrong setup ends the process with a sentence.

    With `partial`, the model may lack some of `towers`: requests for it are told so.
    """
    with exit_on_config_error(name):
        runtime = make_runtime(name, towers, start_logging(), allow_missing_towers=allow_missing_towers)
    tune_malloc()
    named = os.environ.get("MODEL") or os.environ.get("MODELS")
    if runtime.settings_model().manifest.name == DEMO and not named:
        logger.warning("MODEL is not set: serving the bundled demo model, which knows emoji and little else.")
    return runtime


@contextmanager
def exit_on_config_error(name: str) -> Iterator[None]:
    """Have a wrong setup end the process `name` with a sentence."""
    try:
        yield
    except (ConfigError, ModelError) as error:
        sys.exit(f"{name} cannot start: {error}")


def start_logging() -> Settings:
    """Read the settings, and log as they say. Raises ConfigError."""
    settings = load_settings()
    setup_logging(settings.log_level, in_cloud=settings.in_cloud)
    for name, setting in misspelled_settings(os.environ).items():
        logger.warning(f"{name} is not a setting; did you mean {setting}?")
    return settings


# Of mallopt(3).
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8


def tune_malloc() -> None:
    """Have buffers of 8 MiB or more returned to the system when they are freed, smaller ones shared.

    Left alone, glibc raises that size with every large buffer it sees freed, and keeps a heap per thread: a
    few large pictures, and each holds hundreds of megabytes. With a lower limit, the pages of every photo's
    bytes would be asked for and returned several times over while they are read: 15 ms for 4 MB.
    """
    # Other C libraries have no mallopt.
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 8 * 1024 * 1024)
        mallopt(M_TRIM_THRESHOLD, 16 * 1024 * 1024)
        mallopt(M_ARENA_MAX, 2)


def make_runtime(
    name: str, towers: tuple[str, ...], settings: Settings, *, allow_missing_towers: bool = False
) -> Runtime:
    """A runtime for `settings`.

    Raises:
        ModelError: a model's files are missing or damaged.
        ConfigError: a setting names a model that is not served, or needs a package that is not installed.
    """
    if settings.buckets and "image" in towers:
        need_package("ALLOWED_BUCKETS", "google.cloud.storage")
    cpus = settings.threads or usable_cpus()
    # One run at a time uses every CPU: measured, two at once on the same CPUs finish no sooner.
    run_slots = FairSemaphore(width=1, queue=settings.queue)
    folders = dict.fromkeys(map(model_folder, (settings.model, *settings.models)))
    models: dict[str, Model] = {}
    for folder in folders:
        # Beside others, any model may lack a tower.
        model = load_model(
            folder,
            towers,
            threads=cpus,
            run_slots=run_slots,
            allow_missing_towers=allow_missing_towers or len(folders) > 1,
        )
        if model.manifest.name in models:
            raise ConfigError(f"MODELS names two models called {model.manifest.name}.")
        models[model.manifest.name] = model
    default = next(iter(models.values()))

    def check() -> bool:
        for tower in towers:
            if tower in default.manifest.towers:
                check_canary(default, tower)
        return True

    return Runtime(
        name=name,
        towers=towers,
        settings=settings,
        models=models,
        protocol_models={key: _served(models, value) for key, value in settings.protocol_models.items()},
        decode_slots=FairSemaphore(width=cpus, queue=sys.maxsize),
        ready=Lazy(check),
    )


def _served(models: Mapping[str, Model], name: str) -> str:
    for key, model in models.items():
        if model.manifest.is_called(name):
            return key
    raise ConfigError(f"PROTOCOL_MODELS names {name!r}, which is not in MODEL or MODELS.")


def model_folder(model: str) -> Path:
    """Where the model named by the setting MODEL is: a folder, or a name that was baked."""
    return locate(model, MODEL_CACHE)
