"""What a serving process holds: its settings, its models, and what bounds the work."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import msgspec

from clip_embeddings.config import CLOUD_STORAGE, Settings, need_package
from clip_embeddings.cpus import usable_cpus
from clip_embeddings.engine.manifest import find_model_folder, fingerprint, slug
from clip_embeddings.engine.model import Model, load_model
from clip_embeddings.engine.scheduler import Scheduler
from clip_embeddings.engine.session import OpenedSessions
from clip_embeddings.engine.verification import Verification
from clip_embeddings.errors import ApiError, ConfigError
from clip_embeddings.images.decoder import ImageDecoder
from clip_embeddings.memory import MemoryBudgets, make_budgets, memory_limit, work_bytes
from clip_embeddings.paths import MODEL_CACHE
from clip_embeddings.semaphore import FairSemaphore

# Longer names are unknown: comparing one takes time in proportion to its length.
MAX_NAME_CHARS = 256


class Runtime(msgspec.Struct, frozen=True):
    """Everything that requests share."""

    # The function's name.
    name: str
    # The towers that it serves.
    towers: tuple[str, ...]
    settings: Settings
    # By name. The first one is the default.
    models: Mapping[str, Model]
    # Protocol to the name of the model that answers its requests.
    protocol_models: Mapping[str, str]
    # Other names that requests may use, to the names of models.
    aliases: Mapping[str, str]
    # Bounds the memory of requests, over all of them.
    memory: MemoryBudgets
    # Decodes the pictures of all requests.
    decoder: ImageDecoder
    # Verifies the files of towers that have been opened.
    verification: Verification

    def default_model(self) -> Model:
        """The model that answers where neither the request nor its protocol names one."""
        return next(iter(self.models.values()))

    def choose(self, name: str | None, protocol: str = "native") -> Model:
        """The model for a request: the one it names, else its protocol's, else the default one.

        A model is named by its name, an alias, or its checkpoint.

        Raises:
            ApiError: 404 if it names a model that is not served; the message lists those that are.
        """
        protocol_model = self.protocol_models.get(protocol)
        default = self.models[protocol_model] if protocol_model else self.default_model()
        if name is None:
            return default
        if len(name) <= MAX_NAME_CHARS and (named := self._named(name)):
            return named
        if protocol in self.settings.any_model_protocols:
            return default
        names = ", ".join(self.models)
        message = f"The model {name[:100]!r} is not served here; there is {names}."
        raise ApiError(404, "model_unknown", message)

    def _named(self, name: str) -> Model | None:
        """The model of that name, alias or checkpoint."""
        served = self.aliases.get(name) or _find_served(self.models, name)
        if served:
            return self.models[served]
        # The models' own names come first, because one checkpoint may be baked under several names.
        return next((model for model in self.models.values() if model.manifest.is_checkpoint(name)), None)

    def image_fingerprint(self, model: Model) -> str:
        """Identifies what makes the vectors of pictures: the tower, and how pictures are decoded."""
        images = self.settings.images
        return fingerprint(model.manifest.towers["image"].fingerprint, images.exif, images.exact)

    def loaded(self) -> bool:
        """Whether a tower has been opened."""
        return any(model.text.made or model.image.made for model in self.models.values())

    def default_towers(self) -> tuple[str, ...]:
        """The towers of the default model that this function serves."""
        return tuple(tower for tower in self.towers if tower in self.default_model().manifest.towers)

    def is_ready(self) -> bool:
        """Whether the towers of the default model have been opened, and work on this CPU."""
        towers = [self.default_model().tower(name) for name in self.default_towers()]
        return all(tower.made and tower.get().canary.made for tower in towers)

    def open_towers(self) -> None:
        """Open the towers of the default model, and run their canaries. Raises ModelError if one fails."""
        for name in self.default_towers():
            self.default_model().tower(name).get().canary.get()


def make_runtime(
    name: str,
    towers: tuple[str, ...],
    settings: Settings,
    *,
    allow_missing_towers: bool = False,
    sessions: OpenedSessions | None = None,
) -> Runtime:
    """A runtime for `settings`. Without `towers` it holds no model.

    Args:
        allow_missing_towers: the model may lack some of `towers`; requests for them are refused.
        sessions: those of towers that are opened ahead.

    Raises:
        ModelError: a model's files are missing or damaged.
        ConfigError: a setting names a model that is not served, or needs a package that is not installed.
    """
    if settings.buckets and "image" in towers:
        need_package("ALLOWED_BUCKETS", CLOUD_STORAGE)
    cpus = settings.threads or usable_cpus()
    models = _load_models(towers, settings, cpus, allow_missing_towers, sessions) if towers else {}

    limits = settings.limits
    work = work_bytes(settings.memory or memory_limit(), _model_bytes(models, towers), cpus)
    memory = make_budgets(work, towers, settings.queue)
    return Runtime(
        name=name,
        towers=towers,
        settings=settings,
        models=models,
        protocol_models={
            protocol: _served_name("PROTOCOL_MODELS", models, model)
            for protocol, model in settings.protocol_models.items()
            if towers
        },
        aliases={
            alias: _served_name("MODEL_ALIASES", models, model)
            for alias, model in settings.model_aliases.items()
            if towers and _is_free(models, alias)
        },
        memory=memory,
        decoder=ImageDecoder(
            settings.images,
            limits.image_pixels,
            limits.decode_timeout,
            memory=memory.decoding,
            slots=FairSemaphore(width=cpus, queue=sys.maxsize),
        ),
        # What is verified before it is opened need not be verified again.
        verification=Verification({} if settings.verify_before_serving else models, towers),
    )


def _model_bytes(models: Mapping[str, Model], towers: tuple[str, ...]) -> int:
    """The size of the files of all towers that are served."""
    served = [
        model.manifest.towers[tower]
        for model in models.values()
        for tower in towers
        if tower in model.manifest.towers
    ]
    return sum(file.bytes for tower in served for file in tower.files)


def _load_models(
    towers: tuple[str, ...],
    settings: Settings,
    cpus: int,
    allow_missing_towers: bool,
    sessions: OpenedSessions | None,
) -> dict[str, Model]:
    scheduler = Scheduler(cpus, settings.queue)
    folders = dict.fromkeys(
        find_model_folder(model, MODEL_CACHE) for model in (settings.model, *settings.models)
    )
    models: dict[str, Model] = {}
    for folder in folders:
        model = load_model(
            folder,
            towers,
            scheduler=scheduler,
            # One of several models may lack a tower that another one has.
            allow_missing_towers=allow_missing_towers or len(folders) > 1,
            verify_first=settings.verify_before_serving,
            sessions=sessions,
        )
        if model.manifest.name in models:
            raise ConfigError(f"MODELS names two models called {model.manifest.name}.")
        models[model.manifest.name] = model
    return models


def _is_free(models: Mapping[str, Model], alias: str) -> bool:
    """True. Raises ConfigError if a served model is called like the alias already."""
    if any(model.manifest.is_called(alias) for model in models.values()):
        raise ConfigError(f"MODEL_ALIASES gives the name {alias!r} away, which a served model has already.")
    return True


def _find_served(models: Mapping[str, Model], name: str) -> str | None:
    """The name of the served model that is called `name`: by its own name first, because copies of one model
    have the name it was baked under in common."""
    own = (served for served in models if slug(served) == slug(name))
    called = (served for served, model in models.items() if model.manifest.is_called(name))
    return next(own, None) or next(called, None)


def _served_name(setting: str, models: Mapping[str, Model], name: str) -> str:
    if served := _find_served(models, name):
        return served
    raise ConfigError(f"{setting} names {name!r}, which is not in MODEL or MODELS.")
