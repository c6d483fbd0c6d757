"""The demo model itself: an open_clip CLIP built from ``config.json``."""

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
    """A freshly initialised ``open_clip`` CLIP (float32, train mode)."""
    import_open_clip()
    from open_clip.model import CLIP

    return CLIP(**json.loads(CONFIG.read_text(encoding="utf-8")))


def load_checkpoint(path: Path) -> Any:
    """The demo model with the weights at ``path`` (a plain state dict), in eval mode.

    Raises OSError if there is no such file and CheckpointError if it holds something else.
    """
    model = build_model()
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, UnpicklingError, EOFError, TypeError) as problem:
        raise CheckpointError(f"{path} does not hold the weights of the demo model") from problem
    return model.eval()


def eval_transform() -> Callable[[Image.Image], Tensor]:
    """open_clip's standard preprocessing: any picture in, float32 [3, size, size] out, normalised."""
    open_clip = import_open_clip()
    size = json.loads(CONFIG.read_text(encoding="utf-8"))["vision_cfg"]["image_size"]
    transform: Callable[[Image.Image], Tensor] = open_clip.image_transform(size, is_train=False)
    return transform


def encode_image(model: Any, pixels: Tensor) -> Tensor:
    """Unit embeddings [batch, embed_dim] of normalised pixels [batch, 3, size, size]."""
    embeddings: Tensor = model.encode_image(pixels, normalize=True)
    return embeddings


def encode_text(model: Any, tokens: Tensor) -> Tensor:
    """Unit embeddings [batch, embed_dim] of token ids [batch, length], length up to the context length.

    open_clip insists on rows padded to the full context length. The tower is causal and is read at the
    end-of-text token, so padding never matters and the short rows here give the same embeddings sooner.
    """
    length = tokens.shape[1]
    states = model.token_embedding(tokens) + model.positional_embedding[:length]
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
    ends = tokens.argmax(dim=-1)  # end-of-text has the highest id
    states = states[torch.arange(len(tokens)), ends] @ model.text_projection
    return torch.nn.functional.normalize(states, dim=-1)
