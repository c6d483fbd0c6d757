"""What bake works on: a loaded model as two towers, wherever it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image
from torch import Tensor, nn

from clip_embeddings.engine.manifest import Preprocess, TextSpec


@dataclass(frozen=True)
class TextSource:
    """A text tower. `module`: int64 ids (n, length) -> raw projections (n, d), the one that is exported."""

    module: nn.Module
    spec: TextSpec
    # Ids of a few texts, to export with.
    sample: Tensor
    write_tokenizer: Callable[[Path], None]
    # The model's own implementation, tokenizer included: texts -> raw projections (n, d).
    encode: Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class ImageSource:
    """An image tower. `module`: pixels (n, 3, h, w) -> raw projections (n, d), the one that is exported."""

    module: nn.Module
    preprocess: Preprocess
    # The model's own implementation, preprocessing included: pictures -> raw projections (n, d).
    encode: Callable[[Sequence[Image]], Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model, in evaluation mode and float32. A tower's source is made when it is asked for.

    `space` identifies the weights of both towers; `normalize` is False where the model's vectors are used as
    they are.
    """

    architecture: str
    pretrained: str
    quick_gelu: bool
    space: str
    # Both raise BakeError for a tower that cannot be baked.
    text: Callable[[], TextSource] | None
    image: Callable[[], ImageSource] | None
    normalize: bool = True
