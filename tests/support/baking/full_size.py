"""The models of the catalogue in full size with random weights, as the files that a hub serves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from clip_embeddings.engine.model import normalize_rows
from model_cache.baking.catalogue import CatalogueEntry
from model_cache.baking.torch_setup import import_open_clip
from tests.support.baking import families

WEIGHTS = "open_clip_model.safetensors"
# Sizes of distilbert-base-multilingual-cased and xlm-roberta-base.
DISTILBERT = {"dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072}
XLM_R = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
MULTILINGUAL_WORDS, XLM_R_WORDS = 119_547, 250_002

Encode = Callable[[Sequence[Any]], np.ndarray]


@dataclass(frozen=True)
class Published:
    """The files of a model on a hub, and its own implementation."""

    # By "repository/file".
    files: dict[str, Path]
    # Items -> float32 (n, d), L2-normalized.
    texts: Encode | None
    images: Encode


def publish(entry: CatalogueEntry, folder: Path) -> Published:
    """Make the files of `entry` in `folder`, with random weights and a synthetic vocabulary."""
    return PUBLISHERS[entry.source.loader](entry, folder)


def _open_clip(entry: CatalogueEntry, folder: Path) -> Published:
    return _open_clip_model(entry.source.name, entry.downloads[0].repository, folder)


def _open_clip_model(name: str, repository: str, folder: Path) -> Published:
    from tests.support.baking.tiny import torch_images, torch_texts

    open_clip = import_open_clip()
    architecture, _, tag = name.partition("/")
    config = copy.deepcopy(open_clip.get_model_config(architecture))
    text = config["text_cfg"]
    files: dict[str, Path] = {}
    if hub_name := text.get("hf_model_name") or text.get("hf_tokenizer_name"):
        tokenizer = folder / "tokenizer"
        if "hf_model_name" in text:
            families.xlm_roberta(families.unigram(tokenizer, XLM_R_WORDS), XLM_R_WORDS, **XLM_R)
            text["hf_model_name"] = str(tokenizer)
        else:
            families.siglip(tokenizer, text["vocab_size"])
        text["hf_tokenizer_name"] = str(tokenizer)
        files |= _tree(hub_name, tokenizer)
    local_name = f"local-{architecture}"
    families.write_config(folder, local_name, **config)
    tag_config = open_clip.get_pretrained_cfg(architecture, tag)
    torch.manual_seed(5)
    model = open_clip.create_model(
        local_name,
        load_weights=False,
        pretrained_text=False,
        quick_gelu=bool(tag_config.get("quick_gelu", config.get("quick_gelu", False))),
    ).eval()
    fields = ("mean", "std", "interpolation", "resize_mode")
    model.visual.preprocess_cfg.update({field: tag_config[field] for field in fields})
    save_file(
        {key: value.contiguous().clone() for key, value in model.state_dict().items()}, folder / WEIGHTS
    )
    files[f"{repository}/{WEIGHTS}"] = folder / WEIGHTS
    return Published(
        files, lambda items: torch_texts(local_name, model, items), lambda items: torch_images(model, items)
    )


def _sentence_transformer(entry: CatalogueEntry, folder: Path) -> Published:
    # Makes torchvision importable, which sentence-transformers imports too.
    import_open_clip()
    from sentence_transformers import SentenceTransformer

    text = families.sentence_transformer(folder / "text", MULTILINGUAL_WORDS, 512, **DISTILBERT)
    pictures = folder / "pictures"
    pictures.mkdir()
    image = _open_clip_model(entry.source.image_name, entry.downloads[1].repository, pictures)
    reference = SentenceTransformer(str(text), device="cpu")
    return Published(
        _tree(entry.source.name, text) | image.files,
        lambda items: reference.encode(list(items), normalize_embeddings=True, show_progress_bar=False),
        image.images,
    )


def _timm(entry: CatalogueEntry, folder: Path) -> Published:
    import_open_clip()
    import timm
    from torchvision import transforms

    torch.manual_seed(9)
    path = folder / "model.safetensors"
    # The published weights have position embeddings for 518 x 518 pixels, the default here.
    save_file(timm.create_model(entry.source.name, num_classes=0).state_dict(), path)
    model = timm.create_model(
        entry.source.name,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path)},
        img_size=224,
        num_classes=0,
    ).eval()
    prepare = transforms.Compose(
        [
            transforms.Resize(244),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )

    def images(items: Sequence[Any]) -> np.ndarray:
        with torch.no_grad():
            return normalize_rows(model(torch.stack([prepare(item) for item in items])).numpy())

    return Published({f"{entry.downloads[0].repository}/{path.name}": path}, None, images)


PUBLISHERS = {"open_clip": _open_clip, "sentence_transformers": _sentence_transformer, "timm": _timm}


def _tree(repository: str, folder: Path) -> dict[str, Path]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {f"{repository}/{path.relative_to(folder)}": path for path in paths}
