"""The demo model: a CLIP of open_clip, built from `config.json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from model_cache.baking.torch_setup import import_open_clip

CONFIG = Path(__file__).parent / "config.json"


class CheckpointError(Exception):
    """A file does not hold the weights of the demo model."""


def build_model() -> Any:
    """The demo model with random weights (float32, in train mode)."""
    import_open_clip()
    from open_clip.model import CLIP

    return CLIP(**json.loads(CONFIG.read_text(encoding="utf-8")))


def load_checkpoint(path: Path) -> Any:
    """The demo model with the weights at `path` (a state dict), in eval mode.

    Raises:
        OSError: there is no such file.
        CheckpointError: it holds something else.
    """
    model = build_model()
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, UnpicklingError, EOFError, TypeError) as problem:
        raise CheckpointError(f"{path} does not hold the weights of the demo model") from problem
    return model.eval()


def eval_transform() -> Callable[[Image.Image], Tensor]:
    """open_clip's standard preprocessing: any picture -> normalized pixels, float32 [3, size, size]."""
    open_clip = import_open_clip()
    size = json.loads(CONFIG.read_text(encoding="utf-8"))["vision_cfg"]["image_size"]
    transform: Callable[[Image.Image], Tensor] = open_clip.image_transform(size, is_train=False)
    return transform


def encode_image(model: Any, pixels: Tensor) -> Tensor:
    """L2-normalized embeddings [batch, embed_dim] of normalized pixels [batch, 3, size, size]."""
    embeddings: Tensor = model.encode_image(pixels, normalize=True)
    return embeddings


def encode_text(model: Any, tokens: Tensor) -> Tensor:
    """L2-normalized embeddings [batch, embed_dim] of token ids [batch, length], up to the context length.

    open_clip requires rows padded to the full context length. The tower is causal and pools at the
    end-of-text token, so that padding has no effect; the short rows here give the same embeddings sooner.
    """
    length = tokens.shape[1]
    states = model.token_embedding(tokens) + model.positional_embedding[:length]
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
    ends = tokens.argmax(dim=-1)  # the end-of-text token has the highest id
    states = states[torch.arange(len(tokens)), ends] @ model.text_projection
    return torch.nn.functional.normalize(states, dim=-1)
