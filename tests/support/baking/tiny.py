"""Small architectures with random weights and the real tokenizer of CLIP, baked in seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clip_embeddings.engine.model import load_model, normalize_rows
from clip_embeddings.engine.scheduler import Scheduler
from model_cache.baking import parity_samples
from model_cache.baking.torch_setup import import_open_clip

VISION = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 1, "head_width": 32}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}


@dataclass(frozen=True)
class Tiny:
    """A model loaded by open_clip, and the files that it is baked from."""

    name: str
    config: Path
    checkpoint: Path
    model: Any

    @property
    def arguments(self) -> list[str]:
        """The options of the command line that bake it."""
        return [self.name, "--config", str(self.config), "--checkpoint", str(self.checkpoint)]

    def with_activation(self, quick_gelu: bool) -> Any:
        """The same weights with quick-GELU or GELU, built by open_clip alone."""
        model = import_open_clip().create_model(self.name, quick_gelu=quick_gelu)
        model.load_state_dict(self.model.state_dict())
        return model.eval()


def make(
    folder: Path,
    name: str,
    vision: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Tiny:
    """Write configuration and checkpoint of a model; the arguments override parts of the configuration."""
    config, checkpoint = folder / f"{name}.json", folder / f"{name}.pt"
    parts = {"vision_cfg": {**VISION, **(vision or {})}, "text_cfg": {**TEXT, **(text or {})}}
    config.write_text(json.dumps({"embed_dim": 32, **parts, **fields}))
    open_clip = import_open_clip()
    open_clip.add_model_config(config)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = open_clip.create_model(name).eval()
    sharpen(model)
    torch.save(model.state_dict(), checkpoint)
    return Tiny(name, config, checkpoint, model)


def sharpen(model: torch.nn.Module) -> None:
    """Change random weights so that the vectors depend on the activation, as they hardly do otherwise."""
    with torch.no_grad():
        for key, weights in model.named_parameters():
            if key.endswith("mlp.c_fc.bias"):
                # Where GELU and quick-GELU differ most.
                weights.sub_(2)
            elif key.endswith("mlp.c_proj.weight"):
                weights.mul_(10)


def texts() -> list[str]:
    """200 captions, the unusual ones among them."""
    return parity_samples.captions()[-200:]


def engine_texts(folder: Path, items: Sequence[str]) -> np.ndarray:
    """The serving engine's vectors of `items`: (n, d) float32, L2-normalized."""
    model = load_model(folder, ["text"], scheduler=Scheduler(2, 0))
    return normalize_rows(model.text.get().embed(items).vectors)


def engine_images(folder: Path, items: Sequence[Any]) -> np.ndarray:
    """The serving engine's vectors of `items`: (n, d) float32, L2-normalized."""
    tower = load_model(folder, ["image"], scheduler=Scheduler(2, 0)).image.get()
    return normalize_rows(tower.embed([tower.pixels(item) for item in items]))


def torch_texts(name: str, model: Any, items: Sequence[str]) -> np.ndarray:
    """The vectors of open_clip's tokenizer and `model`: (n, d) float32, L2-normalized."""
    tokenizer = import_open_clip().get_tokenizer(name)
    return _encode(tokenizer(list(items)), model.encode_text)


def torch_images(model: Any, items: Sequence[Any]) -> np.ndarray:
    """The vectors of open_clip's preprocessing and `model`: (n, d) float32, L2-normalized."""
    import_open_clip()
    from open_clip.transform import PreprocessCfg, image_transform_v2

    preprocess = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return _encode(torch.stack([preprocess(item) for item in items]), model.encode_image)


def _encode(batch: Any, encode: Any) -> np.ndarray:
    with torch.no_grad():
        parts = [encode(part, normalize=True).numpy() for part in batch.split(25)]
    return np.concatenate(parts)


def min_cosine(vectors: np.ndarray, expected: np.ndarray) -> float:
    """The lowest cosine of a row and the row at the same index, both L2-normalized."""
    assert vectors.shape == expected.shape
    return float((vectors * expected).sum(axis=1).min())
