"""Small architectures with random weights and CLIP's real tokenizer: baked in seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clip_embeddings.engine.model import load_model, normalize_rows
from clip_embeddings.semaphore import FairSemaphore
from model_cache.baking import samples
from model_cache.baking.torch_setup import import_open_clip

VISION = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 1, "head_width": 32}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}


@dataclass(frozen=True)
class Tiny:
    """A model in open_clip's hands, and the files it is baked from."""

    name: str
    config: Path
    checkpoint: Path
    model: Any

    @property
    def arguments(self) -> list[str]:
        """What the command line needs to bake it."""
        return [self.name, "--config", str(self.config), "--checkpoint", str(self.checkpoint)]

    def twin(self, quick_gelu: bool) -> Any:
        """The same weights with the activation as asked, built by open_clip alone."""
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
    """Write configuration and checkpoint of a model that differs from the usual one in what is given."""
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
    """Make vectors depend on the activation: fresh weights hardly do."""
    with torch.no_grad():
        for key, weights in model.named_parameters():
            if key.endswith("mlp.c_fc.bias"):
                # Where GELU and quick-GELU differ most.
                weights.sub_(2)
            elif key.endswith("mlp.c_proj.weight"):
                weights.mul_(10)


def texts() -> list[str]:
    """200 captions, the odd ones among them."""
    return samples.captions()[-200:]


def engine_texts(folder: Path, items: Sequence[str]) -> np.ndarray:
    """What the serving engine makes of `items`: (n, d) float32, L2-normalised."""
    model = load_model(folder, ["text"], threads=2, run_slots=FairSemaphore(1, 0))
    return normalize_rows(model.text.get().embed(items).vectors)


def engine_images(folder: Path, items: Sequence[Any]) -> np.ndarray:
    """What the serving engine makes of `items`: (n, d) float32, L2-normalised."""
    tower = load_model(folder, ["image"], threads=2, run_slots=FairSemaphore(1, 0)).image.get()
    return normalize_rows(tower.embed([tower.pixels(item) for item in items]))


def torch_texts(name: str, model: Any, items: Sequence[str]) -> np.ndarray:
    """What open_clip's tokenizer and `model` make of `items`."""
    tokenizer = import_open_clip().get_tokenizer(name)
    return _encode(tokenizer(list(items)), model.encode_text)


def torch_images(model: Any, items: Sequence[Any]) -> np.ndarray:
    """What open_clip's preprocessing and `model` make of `items`."""
    import_open_clip()
    from open_clip.transform import PreprocessCfg, image_transform_v2

    preprocess = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return _encode(torch.stack([preprocess(item) for item in items]), model.encode_image)


def _encode(batch: torch.Tensor, encode: Any) -> np.ndarray:
    with torch.no_grad():
        parts = [encode(part, normalize=True).numpy() for part in batch.split(25)]
    return np.concatenate(parts)


def min_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The worst pair's cosine."""
    assert ours.shape == theirs.shape
    return float((ours * theirs).sum(axis=1).min())
