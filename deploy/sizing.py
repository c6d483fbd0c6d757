"""Facts about a function's models that a deployment needs: their names, dimensions, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clip_embeddings.engine.manifest import ModelError, slug
from clip_embeddings.functions import Function
from clip_embeddings.memory import MiB, work_bytes
from deploy.artifact import Artifact
from deploy.errors import DeployError
from model_cache.baking import catalogue

MB = 1_000_000

# Cloud Run's memory settings, in bytes.
MEMORY = {"512Mi": 512 * MiB} | {f"{gib}Gi": gib * 1024 * MiB for gib in (1, 2, 4, 8, 16, 32)}
# What requests need beside the models: a function that decodes pictures accepts one of 50 million pixels, as
# JPEG or PNG; another one accepts a body of MAX_REQUEST_BYTES.
IMAGE_WORK, TEXT_WORK = 520 * MiB, 160 * MiB

# Bytes of each tower of a model that is not baked yet, for a plan: an int8 ViT-B/32.
TYPICAL = {"text": 67 * MB, "image": 97 * MB}
TYPICAL_DIMENSIONS = 512


@dataclass(frozen=True)
class ModelFacts:
    """The models of one function."""

    names: tuple[str, ...]
    # Of the first model's vectors.
    dimensions: int
    # The Cloud Run setting that holds all of them.
    memory: str


def model_facts(artifact: Artifact, cpus: int, *, assume: bool) -> ModelFacts:
    """The facts about an artifact's models, in an instance of `cpus` CPUs.

    With `assume`, a model that is not baked has the catalogue's dimensions and the size of an int8 ViT-B/32.

    Raises:
        ModelError: without `assume`, a model is not baked.
    """
    towers = artifact.function.towers
    names, dimensions, sizes = [], [], []
    for model in artifact.models:
        try:
            manifest = artifact.manifest(model)
        except ModelError:
            if not assume:
                raise
            entry = catalogue.find(model)
            names.append(slug(entry.name if entry else model))
            dimensions.append(entry.dimensions if entry else TYPICAL_DIMENSIONS)
            sizes += [TYPICAL[tower] for tower in towers]
        else:
            names.append(slug(manifest.name))
            dimensions.append(manifest.dimensions)
            present = [manifest.towers[tower] for tower in towers if tower in manifest.towers]
            sizes += [file.bytes for tower in present for file in tower.files]
    memory = memory_setting(artifact.function, sizes, cpus)
    return ModelFacts(tuple(dict.fromkeys(names)), dimensions[0], memory)


def memory_setting(function: Function, sizes: Sequence[int], cpus: int) -> str:
    """The smallest Cloud Run memory setting for models' files of `sizes` bytes, on `cpus` CPUs."""
    needed = IMAGE_WORK if "image" in function.towers else TEXT_WORK
    for setting, limit in MEMORY.items():
        if work_bytes(limit, sum(sizes), cpus) >= needed:
            return setting
    raise DeployError(
        f"{function.name} would need more memory than Cloud Run has, for models of {sum(sizes) / MB:,.0f} MB."
    )
