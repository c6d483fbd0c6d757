"""The two towers of a model of open_clip, prepared for the export."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from clip_embeddings.engine.manifest import Preprocess, TextSpec
from clip_embeddings.engine.tokenizer import CLEANERS
from model_cache.baking import hub
from model_cache.baking.checkpoints import TorchImageTower, TorchTextTower
from model_cache.baking.errors import BakeError, root_cause
from model_cache.baking.exportable_modules import (
    CausalTextModule,
    ImageModule,
    TextModule,
    compute_pooled_row_only,
    exportable_copy,
)
from model_cache.baking.tokenizer_file import write_clip_tokenizer, write_library_tokenizer
from model_cache.baking.torch_setup import import_open_clip

# Tokens of an example input whose length is dynamic in the export.
EXAMPLE_LENGTH = 9


def image_tower(model: Any, preprocess: Preprocess) -> TorchImageTower:
    """The image tower of `model`."""
    exported: Any = exportable_copy(model)
    if hasattr(exported.visual, "trunk"):
        from timm.utils.model import reparameterize_model

        # Merges the branches that some convolutional networks have only for training.
        exported.visual.trunk = reparameterize_model(exported.visual.trunk)
    elif getattr(exported.visual, "pool_type", "") == "tok" and exported.visual.attn_pool is None:
        compute_pooled_row_only(exported.visual.transformer)

    def encode(images: Sequence[Image]) -> Tensor:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        fields = ("size", "mean", "std", "interpolation", "resize_mode", "fill_color")
        config = PreprocessCfg(**{field: getattr(preprocess, field) for field in fields})
        transform = image_transform_v2(config, is_train=False)
        encoded: Tensor = model.encode_image(torch.stack([transform(image) for image in images]))
        return encoded

    return TorchImageTower(ImageModule(exported), preprocess, encode)


def text_tower(model: Any, architecture: str) -> TorchTextTower:
    """The text tower of `model`.

    Raises:
        BakeError: its tokenizer cannot be loaded, or is of a kind that the engine does not implement.
    """
    tokenizer = _load_tokenizer(architecture)
    clean = getattr(getattr(tokenizer, "clean_fn", None), "__name__", "").removeprefix("_clean_")
    is_clip = hasattr(tokenizer, "bpe_ranks") and not tokenizer.reduction_fn
    is_library = hasattr(tokenizer, "tokenizer_mode") and not tokenizer.tokenizer_mode
    if clean not in CLEANERS or not (is_clip or is_library):
        raise BakeError(
            f"The text tower of {architecture} has a tokenizer that cannot be baked yet; "
            "--towers image bakes its image tower."
        )
    _check_vocabulary(architecture, _text_module(model), tokenizer)
    return (_clip_text if is_clip else _library_text)(model, tokenizer, clean)


def _clip_text(model: Any, tokenizer: Any, clean: str) -> TorchTextTower:
    """A text tower with CLIP's own tokenizer."""
    spec = TextSpec(
        context_length=tokenizer.context_length,
        trim=_is_causal(_text_module(model)),
        clean=clean,
        pad_id=0,
        start_id=tokenizer.sot_token_id,
        end_id=tokenizer.eot_token_id,
    )
    exported: Any = exportable_copy(model)
    example_ids = _example_ids(tokenizer, spec)
    write = partial(write_clip_tokenizer, tokenizer)
    if not spec.trim:
        return TorchTextTower(TextModule(exported), spec, example_ids, write, _encode_text(model, tokenizer))
    exported = _text_module(exported)
    compute_pooled_row_only(exported.transformer)
    return TorchTextTower(
        CausalTextModule(exported), spec, example_ids, write, _encode_text(model, tokenizer)
    )


def _library_text(model: Any, tokenizer: Any, clean: str) -> TorchTextTower:
    """A text tower with a tokenizer of transformers."""
    tower = _text_module(model)
    inner = tokenizer.tokenizer
    spec = TextSpec(
        context_length=tokenizer.context_length,
        # Encoders of transformers get an attention mask that hides padding.
        trim=hasattr(tower, "config") and getattr(tower.config, "pad_token_id", None) == inner.pad_token_id,
        clean=clean,
        pad_id=inner.pad_token_id,
        kind="library",
        pad_side=inner.padding_side,
    )
    exported: Any = exportable_copy(model)
    if hasattr(tower, "transformer") and hasattr(tower.transformer, "set_attn_implementation"):
        # Computes attention with basic operators; the other implementations branch on shapes.
        exported = copy.deepcopy(exported)
        exported.text.transformer.set_attn_implementation("eager")
    return TorchTextTower(
        TextModule(exported, removed_id=inner.sep_token_id if tokenizer.strip_sep_token else None),
        spec,
        _example_ids(tokenizer, spec),
        partial(write_library_tokenizer, inner, tokenizer.context_length),
        _encode_text(model, tokenizer),
    )


def _example_ids(tokenizer: Any, spec: TextSpec) -> Tensor:
    ids: Tensor = tokenizer(["a cat", "two small dogs in the snow"])
    return ids[:, :EXAMPLE_LENGTH] if spec.trim else ids


def _encode_text(model: Any, tokenizer: Any) -> Callable[[Sequence[str]], Tensor]:
    def encode(texts: Sequence[str]) -> Tensor:
        encoded: Tensor = model.encode_text(tokenizer(list(texts)))
        return encoded

    return encode


def _load_tokenizer(architecture: str) -> Any:
    open_clip = import_open_clip()
    repository = open_clip.get_model_config(architecture)["text_cfg"].get("hf_tokenizer_name", "")
    try:
        if repository and not Path(repository).is_dir():
            hub.check_reachable(repository, "tokenizer.json", "tokenizer_config.json")
        return open_clip.get_tokenizer(architecture)
    except Exception as error:
        raise BakeError(
            f"The tokenizer of {architecture} cannot be loaded: {root_cause(error)}. Check the network "
            "(HF_ENDPOINT names the hub), or use a --config whose hf_tokenizer_name is a local folder."
        ) from error


def _check_vocabulary(architecture: str, tower: Any, tokenizer: Any) -> None:
    """Check that the tower has a vector for every token that the tokenizer can return."""
    tokens = tokenizer.vocab_size if hasattr(tokenizer, "bpe_ranks") else len(tokenizer.tokenizer)
    vectors = tower.token_embedding.num_embeddings if hasattr(tower, "token_embedding") else tower.vocab_size
    if vectors < tokens:
        raise BakeError(
            f"The text tower of {architecture} has {vectors:,} token vectors, its tokenizer "
            f"makes {tokens:,} different tokens."
        )


def _text_module(model: Any) -> Any:
    # The CLIP class of open_clip has the parts of its text tower as attributes of the model itself.
    return model if hasattr(model, "token_embedding") else model.text


def _is_causal(tower: Any) -> bool:
    """Whether the tower is causal and pools at the end-of-text token, so that padding has no effect."""
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    return (
        getattr(tower, "attn_mask", None) is not None
        and getattr(tower, "cls_emb", None) is None
        and pool == "argmax"
        and tower.text_projection is not None
    )
