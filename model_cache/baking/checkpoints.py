"""A loaded model, as two towers of torch, independent of the library that it was loaded with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image
from torch import Tensor, nn

from clip_embeddings.engine.manifest import Preprocess, TextSpec


@dataclass(frozen=True)
class TokenizerFile:
    """A written tokenizer: the name of its file, and the SHA-256 that stands for it in the fingerprint."""

    name: str
    identity: str


@dataclass(frozen=True)
class TorchTextTower:
    """A text tower before its export."""

    # The module to export: int64 ids (n, length) -> float32 projections (n, d), not normalized.
    module: nn.Module
    spec: TextSpec
    # Ids of a few texts, int64 (n, length): the example input of the export.
    example_ids: Tensor
    # Writes the tokenizer's file into a folder.
    write_tokenizer: Callable[[Path], TokenizerFile]
    # The model's own implementation, tokenizer included: texts -> projections (n, d), not normalized.
    encode: Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class TorchImageTower:
    """An image tower before its export."""

    # The module to export: float32 pixels (n, 3, h, w) -> float32 projections (n, d), not normalized.
    module: nn.Module
    preprocess: Preprocess
    # The model's own implementation, preprocessing included: images -> projections (n, d), not normalized.
    encode: Callable[[Sequence[Image]], Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model, in evaluation mode and float32."""

    architecture: str
    pretrained: str
    quick_gelu: bool
    # Identifies the weights of both towers, see `embedding_space.space_id`.
    space: str
    # Each builds its tower on call; None where the model has no such tower. They raise BakeError for a tower
    # that cannot be baked.
    text: Callable[[], TorchTextTower] | None
    image: Callable[[], TorchImageTower] | None
    # False where the model's vectors are used without normalization.
    normalize: bool = True
    # What zero-shot classification multiplies cosines by, the exponential of the weight, and what it adds.
    # None where the model has none.
    logit_scale: float | None = None
    logit_bias: float | None = None
