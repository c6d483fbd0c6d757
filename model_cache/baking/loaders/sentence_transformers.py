"""Loads text towers of sentence-transformers, trained for the embedding space of a model of open_clip."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clip_embeddings.engine.manifest import TextSpec
from model_cache.baking import hub
from model_cache.baking.catalogue import ModelSource
from model_cache.baking.checkpoints import Checkpoint, TorchTextTower
from model_cache.baking.embedding_space import space_id
from model_cache.baking.errors import BakeError, root_cause
from model_cache.baking.loaders import open_clip
from model_cache.baking.tokenizer_file import write_library_tokenizer

# The files that a mean-pooled transformer with a dense layer needs, in a folder that sentence-transformers
# saved. Where a file may have several names, the preferred one is first.
FILES = (
    ("config.json",),
    ("model.safetensors", "pytorch_model.bin"),
    ("tokenizer.json",),
    ("tokenizer_config.json",),
    ("sentence_bert_config.json",),
    ("1_Pooling/config.json",),
    ("2_Dense/config.json",),
    ("2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"),
)
# Marks padding. It differs from every token id, also from that of a "[PAD]" in a text: ids are not negative.
PADDING_ID = -1
# Names of the image tower's weights in a local folder.
IMAGE_WEIGHTS = ("image.safetensors", "image.pt")


class MeanPooledModule(nn.Module):
    """A transformer, the mean over its tokens and a dense layer. Positions with PADDING_ID are ignored."""

    def __init__(self, transformer: Any, dense: nn.Linear) -> None:
        super().__init__()
        self.transformer = transformer
        self.dense = dense

    def forward(self, ids: Tensor) -> Tensor:
        """int64 ids (n, length) -> projections (n, d), not normalized."""
        mask = (ids != PADDING_ID).long()
        hidden = self.transformer(input_ids=ids.clamp(min=0), attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        pooled: Tensor = self.dense((hidden * weights).sum(dim=1) / weights.sum(dim=1))
        return pooled


def load(source: ModelSource) -> Checkpoint:
    """Load the text tower of the repository `source.name` and the image tower of `source.image_name`.

    `source.checkpoint` is a local copy of the repository, a folder that also holds the weights of the image
    tower, under one of the names IMAGE_WEIGHTS.

    Raises:
        BakeError: a file that is missing or cannot be read, another kind of pooling, no network.
    """
    if source.checkpoint is None:
        folder, image_weights = _download(source.name), None
    else:
        folder, image_weights = source.checkpoint, _image_weights(source.checkpoint)
    image_model = open_clip.load(
        ModelSource(loader="open_clip", name=source.image_name, checkpoint=image_weights)
    )
    module, tokenizer, max_length = _read(folder)
    return Checkpoint(
        architecture=f"{source.name.rpartition('/')[2]} + {image_model.architecture}",
        pretrained=image_model.pretrained,
        quick_gelu=image_model.quick_gelu,
        space=space_id([source.name, image_model.space], module),
        text=partial(_text_tower, module, tokenizer, max_length),
        image=image_model.image,
        # The text tower was trained to give the vectors of the image model's own.
        logit_scale=image_model.logit_scale,
        logit_bias=image_model.logit_bias,
    )


def _download(repository: str) -> Path:
    paths = [hub.download(f"The text tower {repository}", repository, *names) for names in FILES]
    return paths[0].parent


def _image_weights(folder: Path) -> Path:
    for name in IMAGE_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise BakeError(
        f"{folder} must hold the text tower as sentence-transformers saves it, and the weights of the image "
        "tower in image.safetensors or image.pt."
    )


def _read(folder: Path) -> tuple[MeanPooledModule, Any, int]:
    """The text tower in `folder`, its tokenizer and the length at which it truncates, in tokens."""
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        # Its progress bar would break up the progress lines of the bake.
        disable_progress_bar()  # type: ignore[no-untyped-call]
        transformer = AutoModel.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
        config = json.loads((folder / "2_Dense" / "config.json").read_text(encoding="utf-8"))
        sizes = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
        max_length = sizes.get("max_seq_length") or tokenizer.model_max_length
        dense = nn.Linear(config["in_features"], config["out_features"], bias=config["bias"])
        dense.load_state_dict(_dense_weights(folder / "2_Dense"))
    except Exception as error:
        raise BakeError(
            f"{folder} does not hold a text tower as sentence-transformers saves it: {root_cause(error)}."
        ) from error
    pools_mean = pooling.get("pooling_mode_mean_tokens") or pooling.get("pooling_mode") == "mean"
    if not pools_mean or not config["activation_function"].endswith("Identity"):
        raise BakeError(f"{folder} pools in a way that cannot be baked: the mean of all tokens is known.")
    return MeanPooledModule(transformer, dense).float().eval(), tokenizer, max_length


def _dense_weights(folder: Path) -> dict[str, Tensor]:
    if (folder / "model.safetensors").is_file():
        from safetensors.torch import load_file

        weights = load_file(folder / "model.safetensors")
    else:
        weights = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    return {key.removeprefix("linear."): value for key, value in weights.items()}


def _text_tower(module: MeanPooledModule, tokenizer: Any, max_length: int) -> TorchTextTower:
    def encode(texts: Sequence[str]) -> Tensor:
        # One text per run, without padding: the export is compared with vectors that padding cannot affect.
        inputs = [
            tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt") for text in texts
        ]
        return torch.cat([module(tokens.input_ids) for tokens in inputs])

    # Computes attention with basic operators; the other implementations branch on shapes.
    module.transformer.set_attn_implementation("eager")
    spec = TextSpec(max_length, trim=True, clean="none", pad_id=PADDING_ID, kind="library")
    examples = tokenizer(["a cat", "two dogs"], padding=True, return_tensors="pt")
    example_ids = torch.where(examples.attention_mask == 1, examples.input_ids, PADDING_ID)
    write = partial(write_library_tokenizer, tokenizer, max_length)
    return TorchTextTower(module, spec, example_ids, write, encode)
