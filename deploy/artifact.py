"""The contents of one staged function, as data: its models, its code and its requirements."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clip_embeddings.config import CLOUD_STORAGE, SWAGGER_UI
from clip_embeddings.engine.manifest import (
    LIBRARY_TOKENIZER,
    TOWERS,
    Manifest,
    ModelError,
    find_model_folder,
    load_manifest,
    tokenizer_file,
)
from clip_embeddings.functions import Function
from clip_embeddings.index.registry import BACKENDS, IndexBackend, deployed_backend, find_backend
from clip_embeddings.paths import MODEL_CACHE, ROOT
from clip_embeddings.postgres_url import SCHEME
from clip_embeddings.protocols.registry import PROTOCOLS
from deploy.errors import DeployError
from deploy.modules import needed_files
from deploy.options import CommandLine

REQUIREMENTS = "requirements.txt"

INDEX_REGISTRY = "clip_embeddings.index.registry"
PROTOCOL_REGISTRY = "clip_embeddings.protocols.registry"

# Packages that only one kind of input needs: a function for texts installs no libraries for images.
PACKAGES_BY_TOWER = {
    "text": {"ftfy", "regex", "tokenizers"},
    "image": {"pillow", "pillow-heif", "requests", "requests-hardened"},
}


@dataclass(frozen=True)
class Artifact:
    """One function as it is to be deployed."""

    function: Function
    # Names or folders of baked models. The first one serves the requests that name none.
    models: tuple[str, ...]
    # The backend of the deployment's index.
    backend: IndexBackend
    # Whether requests may name images by gs:// references.
    reads_buckets: bool = False
    # Whether a browser gets Swagger UI at /docs.
    has_swagger_ui: bool = False

    def manifest(self, model: str) -> Manifest:
        """The manifest of one of its models. Raises ModelError if it is not baked, or lacks a tower."""
        lenient = self.function.allow_missing_towers or len(self.models) > 1
        try:
            folder = find_model_folder(model, MODEL_CACHE)
            return load_manifest(folder, self.function.towers, allow_missing_towers=lenient)
        except ModelError as error:
            raise ModelError(f"{self.function.name}: {error}") from None

    def code(self) -> list[Path]:
        """The source files that it needs, and the data files beside them.

        Raises:
            DeployError: the function is not in this checkout.
        """
        name = self.function.name
        if not (ROOT / "functions" / f"{name}.py").is_file():
            raise DeployError(f"There is no functions/{name}.py in this checkout: {name} cannot be staged.")
        registries = {
            PROTOCOL_REGISTRY: tuple(PROTOCOLS.values()),
            # Backends without a package are always included: a container or a function without INDEX_URL
            # uses one.
            INDEX_REGISTRY: tuple(
                backend.module for backend in BACKENDS if backend == self.backend or backend.package is None
            ),
        }
        return needed_files([f"functions.{name}"], ROOT, registries)

    def requirements(self) -> str:
        """The lines of its requirements files, and of those they include, that its towers need.

        Raises:
            ModelError: a model is not baked, or lacks a tower.
        """
        unneeded = set[str]().union(
            *(PACKAGES_BY_TOWER[tower] for tower in TOWERS if tower not in self.function.towers)
        )
        if not any(self._has_library_tokenizer(model) for model in self.models):
            unneeded.add("tokenizers")
        lines = (line for file in self._requirements_files() for line in _lines(ROOT / file))
        return "".join(
            f"{line}\n"
            for line in dict.fromkeys(lines)
            if re.split(r"[^A-Za-z0-9._-]", line)[0] not in unneeded
        )

    def _has_library_tokenizer(self, model: str) -> bool:
        tower = self.manifest(model).towers.get("text")
        return tower is not None and tokenizer_file(tower) == LIBRARY_TOKENIZER

    def _requirements_files(self) -> Iterator[str]:
        needs = self.function.needs
        yield REQUIREMENTS
        if "jobs" in needs or "photos" in needs or (self.reads_buckets and "image" in self.function.towers):
            yield CLOUD_STORAGE.requirements
        if "index" in needs and self.backend.package:
            yield self.backend.package.requirements
        if self.has_swagger_ui and self.function.is_http:
            yield SWAGGER_UI.requirements


def make_artifact(function: Function, options: CommandLine) -> Artifact:
    """The artifact of `function` with these options."""
    models = [options["MODEL"]]
    if function.serves_several_models and options["MODELS"]:
        models += options["MODELS"].split(",")
    return Artifact(
        function,
        tuple(dict.fromkeys(models)),
        chosen_backend(options),
        reads_buckets=bool(options["ALLOWED_BUCKETS"]),
        has_swagger_ui=options.settings.get("DOCS_PAGE") == "swagger",
    )


def chosen_backend(options: CommandLine) -> IndexBackend:
    """The index backend that INDEX_URL names, else that of a deployment without INDEX_URL.

    A URL that is in a secret is one of PostgreSQL: the others hold nothing secret.
    """
    url = f"{SCHEME}://" if options.index_secret else options.settings.get("INDEX_URL")
    return find_backend(url) if url else deployed_backend()


def _lines(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise DeployError(f"{path.relative_to(ROOT)} is missing in this checkout.")
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            yield from _lines((path.parent / line[3:].strip()).resolve())
        elif line and not line.startswith("#"):
            yield line
