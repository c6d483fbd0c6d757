"""A text tower of sentence-transformers that was trained to meet the image tower of a CLIP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clip_embeddings.engine.manifest import TextSpec
from model_cache.baking import from_open_clip, hub
from model_cache.baking.checkpoints import Checkpoint, TextSource
from model_cache.baking.errors import BakeError, root_cause
from model_cache.baking.spaces import space_of
from model_cache.baking.tokenizer_file import write_library

# Of a folder that sentence-transformers wrote, what a mean-pooled transformer with a dense layer on top
# needs; where a file may have several names, the preferred one first.
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
# Token ids are never negative, so this marks padding even beside a text that spells "[PAD]".
PADDING = -1


class MeanPooled(nn.Module):
    """A transformer, the mean of its tokens, a dense layer; ids of PADDING are not there."""

    def __init__(self, transformer: Any, dense: nn.Linear) -> None:
        super().__init__()
        self.transformer = transformer
        self.dense = dense

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids != PADDING).long()
        hidden = self.transformer(input_ids=ids.clamp(min=0), attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        pooled: Tensor = self.dense((hidden * weights).sum(dim=1) / weights.sum(dim=1))
        return pooled


def load(repository: str, images: str, folder: Path | None = None) -> Checkpoint:
    """The text tower of `repository` beside the image tower of `images`, an open_clip ARCH/PRETRAINED.

    Args:
        repository: as the hub spells it.
        images: as open_clip spells it.
        folder: a local copy of the repository, with the weights of the image tower in `image.safetensors` or
            `image.pt`, instead of downloads.

    Raises:
        BakeError: a file that is missing or of another kind, no network.
    """
    if folder is None:
        for names in FILES:
            folder = hub.download(f"The text tower {repository}", repository, *names).parent
        assert folder is not None
        folder = folder.parent
        image = from_open_clip.load(images)
    else:
        image = from_open_clip.load(images, _image_weights(folder))
    model, tokenizer, length = _read(folder)
    return Checkpoint(
        architecture=f"{repository.rpartition('/')[2]} + {image.architecture}",
        pretrained=image.pretrained,
        quick_gelu=image.quick_gelu,
        space=space_of([repository, image.space], model),
        text=partial(_text, model, tokenizer, length),
        image=image.image,
    )


def _image_weights(folder: Path) -> Path:
    for name in ("image.safetensors", "image.pt"):
        if (folder / name).is_file():
            return folder / name
    raise BakeError(
        f"{folder} must hold the text tower as sentence-transformers saves it, and the weights of the image "
        "tower in image.safetensors or image.pt."
    )


def _read(folder: Path) -> tuple[MeanPooled, Any, int]:
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        # Its bar would run through ours.
        disable_progress_bar()  # type: ignore[no-untyped-call]
        transformer = AutoModel.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
        config = json.loads((folder / "2_Dense" / "config.json").read_text(encoding="utf-8"))
        sizes = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
        length = sizes.get("max_seq_length") or tokenizer.model_max_length
        dense = nn.Linear(config["in_features"], config["out_features"], bias=config["bias"])
        dense.load_state_dict(_dense_weights(folder / "2_Dense"))
    except Exception as error:
        raise BakeError(
            f"{folder} does not hold a text tower as sentence-transformers saves it: {root_cause(error)}."
        ) from error
    mean = pooling.get("pooling_mode_mean_tokens") or pooling.get("pooling_mode") == "mean"
    if not mean or not config["activation_function"].endswith("Identity"):
        raise BakeError(f"{folder} pools in a way that cannot be baked: the mean of all tokens is known.")
    return MeanPooled(transformer, dense).float().eval(), tokenizer, length


def _dense_weights(folder: Path) -> dict[str, Tensor]:
    if (folder / "model.safetensors").is_file():
        from safetensors.torch import load_file

        weights = load_file(folder / "model.safetensors")
    else:
        weights = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    return {key.removeprefix("linear."): value for key, value in weights.items()}


def _text(model: MeanPooled, tokenizer: Any, length: int) -> TextSource:
    def encode(texts: Sequence[str]) -> Tensor:
        # One at a time, so that nothing is padded: what padding does is what gets checked.
        rows = [tokenizer(text, truncation=True, max_length=length, return_tensors="pt") for text in texts]
        return torch.cat([model(row.input_ids) for row in rows])

    # Its arithmetic in plain operators; the other ways branch on shapes.
    model.transformer.set_attn_implementation("eager")
    spec = TextSpec(length, trim=True, clean="none", pad_id=PADDING, kind="library")
    ids = tokenizer(["a cat", "two dogs"], padding=True, return_tensors="pt")
    sample = torch.where(ids.attention_mask == 1, ids.input_ids, PADDING)
    return TextSource(model, spec, sample, partial(write_library, tokenizer, length), encode)
