"""The model loaders, by name. A loader is a module with `load(source: ModelSource) -> Checkpoint`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from model_cache.baking.catalogue import ModelSource

if TYPE_CHECKING:
    from model_cache.baking.checkpoints import Checkpoint


@dataclass(frozen=True)
class Loader:
    """How to load one family of models."""

    # Imported at first use, because it imports torch and the family's library.
    module: str
    # Whether the loader follows `ModelSource.quick_gelu`.
    supports_quick_gelu: bool = False


LOADERS: Mapping[str, Loader] = {
    "open_clip": Loader("model_cache.baking.loaders.open_clip", supports_quick_gelu=True),
    "sentence_transformers": Loader("model_cache.baking.loaders.sentence_transformers"),
    "timm": Loader("model_cache.baking.loaders.timm"),
}


def load(source: ModelSource) -> Checkpoint:
    """Load the model with the loader that `source` names.

    Raises:
        BakeError: unknown name, no network, a file that cannot be read or belongs to another model.
    """
    checkpoint: Checkpoint = import_module(LOADERS[source.loader].module).load(source)
    return checkpoint
