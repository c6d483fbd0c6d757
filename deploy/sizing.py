"""Facts about a function's models that a deployment needs: their names, dimensions, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clip_embeddings.engine.manifest import ModelError, slug
from clip_embeddings.functions import Function
from deploy.artifact import Artifact
from deploy.errors import DeployError
from model_cache.baking import catalogue

MB = 1_000_000

# Cloud Run's memory settings, in MB. Resident, as measured: 200 MB without weights, and 1.3 times the
# size of the weights; an image of 50 million pixels takes 450 MB while it is decoded. A tenth stays free.
MEMORY = {"512Mi": 537, "1Gi": 1074, "2Gi": 2147, "4Gi": 4295, "8Gi": 8590, "16Gi": 17180, "32Gi": 34360}
BASE_MB, PER_MODEL_MB, DECODE_MB, FREE = 200, 1.3, 450, 0.9

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


def model_facts(artifact: Artifact, *, assume: bool) -> ModelFacts:
    """The facts about an artifact's models.

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
    memory = memory_setting(artifact.function, sizes)
    return ModelFacts(tuple(dict.fromkeys(names)), dimensions[0], memory)


def memory_setting(function: Function, sizes: Sequence[int]) -> str:
    """The smallest Cloud Run memory setting for models' files of `sizes` bytes."""
    decode = DECODE_MB if "image" in function.towers else 0
    needed = BASE_MB + PER_MODEL_MB * sum(sizes) / MB + decode
    for setting, megabytes in MEMORY.items():
        if needed <= FREE * megabytes:
            return setting
    raise DeployError(
        f"{function.name} would need {needed / 1000:.0f} GB of memory, more than Cloud Run has."
    )
