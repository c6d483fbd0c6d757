"""From a name and perhaps some files to a loaded open_clip model with the right activation."""

from __future__ import annotations

import copy
import difflib
import json
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from clip_embeddings.engine.manifest import Preprocess, TextSpec
from clip_embeddings.engine.tokenizer import CLEANERS
from model_cache.baking import hub
from model_cache.baking.checkpoints import Checkpoint, ImageSource, TextSource
from model_cache.baking.errors import BakeError, root_cause
from model_cache.baking.modules import CausalText, Pixels, Text, plain, pool_last
from model_cache.baking.spaces import space_of
from model_cache.baking.tokenizer_file import write_clip, write_library
from model_cache.baking.torch_setup import import_open_clip


def load(
    name: str, checkpoint: Path | None = None, config: Path | None = None, quick_gelu: bool | None = None
) -> Checkpoint:
    """Load the weights that `name` stands for.

    Args:
        name: `ARCH/PRETRAINED` as open_clip spells it, or `ARCH` with `checkpoint`.
        checkpoint: a local state dict (`.pt`, `.safetensors`) to load instead of a download.
        config: an architecture of one's own in open_clip's JSON form; `ARCH` becomes its name.
        quick_gelu: overrides what the tag, or else the architecture, says of the activation.

    Raises:
        BakeError: unknown name, missing or unreadable file, weights of another architecture, no network.
    """
    open_clip = import_open_clip()
    architecture, _, tag = name.partition("/")
    if config:
        _register_config(open_clip, architecture, config)
    # open_clip would take "hf-hub:" and "local-dir:" names too; they have neither tags nor checkpoints.
    if architecture not in open_clip.list_models():
        raise BakeError(
            f"Unknown architecture {architecture!r}.{_suggest(architecture, open_clip.list_models())} "
            "`--list` shows what is known, `--config FILE` brings an architecture of your own."
        )
    model_config = open_clip.get_model_config(architecture)
    tag_config = _tag_config(open_clip, architecture, tag, checkpoint)
    if quick_gelu is None:
        quick_gelu = needs_quick_gelu(model_config, tag_config)
    path = checkpoint if checkpoint else _download(open_clip, name, tag_config)
    if not path.is_file():
        raise BakeError(f"No checkpoint at {path}.")
    text = model_config["text_cfg"]
    encoder = text.get("hf_model_name") if isinstance(text, dict) else None
    if encoder and not Path(encoder).is_dir():
        with hub.explained(f"The configuration of {encoder}", encoder, "config.json"):
            hub.knock(encoder, "config.json")
    model = _build(open_clip, architecture, quick_gelu)
    _load_weights(open_clip, model, path, architecture)
    preprocess = _preprocess({**model.visual.preprocess_cfg, **tag_config})
    return Checkpoint(
        architecture=architecture,
        pretrained=tag or path.name,
        quick_gelu=quick_gelu,
        space=space_of([model_config, quick_gelu], model),
        text=partial(_text, model, architecture),
        image=partial(image_source, model, preprocess),
    )


def needs_quick_gelu(model_config: dict[str, Any], tag_config: dict[str, Any]) -> bool:
    """What the pretrained tag says of the activation or, where it says nothing, the architecture.

    open_clip only warns when the two differ, follows the architecture, and then returns wrong vectors.
    """
    return bool(tag_config.get("quick_gelu", model_config.get("quick_gelu", False)))


def _register_config(open_clip: Any, architecture: str, config: Path) -> None:
    try:
        fields = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BakeError(f"The configuration {config} cannot be read: {error}.") from None
    missing = {"embed_dim", "vision_cfg", "text_cfg"} - set(fields if isinstance(fields, dict) else ())
    if missing:
        raise BakeError(f"The configuration {config} lacks {', '.join(sorted(missing))}.")
    # open_clip names an architecture after its file.
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(config, Path(folder) / f"{architecture}.json")
        open_clip.add_model_config(Path(folder) / f"{architecture}.json")


def _tag_config(open_clip: Any, architecture: str, tag: str, checkpoint: Path | None) -> dict[str, Any]:
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not tag:
        if not checkpoint:
            known = f" Known tags: {', '.join(tags)}." if tags else ""
            raise BakeError(
                f"{architecture} names an architecture without weights: use {architecture}/PRETRAINED, "
                f"or pass --checkpoint FILE.{known}"
            )
        return {}
    if tag not in tags:
        raise BakeError(
            f"Unknown pretrained tag {tag!r} for {architecture}.{_suggest(tag, tags)} "
            f"Known tags: {', '.join(tags) or 'none'}."
        )
    return dict(open_clip.get_pretrained_cfg(architecture, tag))


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def _download(open_clip: Any, name: str, tag_config: dict[str, Any]) -> Path:
    repository, _, filename = tag_config.get("hf_hub", "").rpartition("/")
    # What open_clip looks for where the tag names no file.
    filename = filename or "open_clip_pytorch_model.bin"
    # It asks a hub for the safetensors form first.
    safe = (
        "open_clip_model.safetensors"
        if filename == "open_clip_pytorch_model.bin"
        else str(Path(filename).with_suffix(".safetensors"))
    )
    with hub.explained(f"The weights of {name}", repository, safe, url=tag_config.get("url", "")):
        if repository:
            hub.knock(repository, safe, filename)
        return Path(open_clip.download_pretrained(tag_config))


def _build(open_clip: Any, architecture: str, quick_gelu: bool) -> Any:
    try:
        model = open_clip.create_model(
            architecture, load_weights=False, pretrained_text=False, quick_gelu=quick_gelu
        )
    except Exception as error:
        raise BakeError(f"open_clip cannot build {architecture}: {root_cause(error)}.") from error
    return model.float().eval()


def _load_weights(open_clip: Any, model: Any, path: Path, architecture: str) -> None:
    try:
        _check_positions(open_clip.factory.load_state_dict(str(path)), model, path, architecture)
        open_clip.load_checkpoint(model, str(path))
    except BakeError:
        raise
    except OSError as error:
        raise BakeError(f"The checkpoint {path} cannot be read: {error}.") from None
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise BakeError(
            f"{path.name} is not a checkpoint of {architecture}: {' '.join(lines[:2])[:300]}"
        ) from None
    except Exception as error:
        raise BakeError(
            f"{path.name} is not a checkpoint that can be read ({type(error).__name__}): expected an "
            "open_clip state dict as .pt or .safetensors."
        ) from None


def _check_positions(weights: Any, model: Any, path: Path, architecture: str) -> None:
    """open_clip stretches positions of another image size or context length to fit, without a word."""
    own = model.state_dict()
    for key in ("visual.positional_embedding", "positional_embedding", "text.positional_embedding"):
        if key in weights and key in own and len(weights[key]) != len(own[key]):
            raise BakeError(
                f"{path.name} is not a checkpoint of {architecture}: {key} has {len(weights[key])} "
                f"positions, the architecture {len(own[key])}. Use --config with its own image size "
                "or context length."
            )


def _preprocess(config: dict[str, Any]) -> Preprocess:
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size[-2:]
    return Preprocess(
        size=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        resize_mode=config["resize_mode"],
        fill_color=config["fill_color"],
    )


def image_source(model: Any, preprocess: Preprocess) -> ImageSource:
    """The image tower of open_clip's `model`."""
    exported: Any = plain(model)
    if hasattr(exported.visual, "trunk"):
        from timm.utils.model import reparameterize_model

        # Folds the branches that some convolutional networks have for training only.
        exported.visual.trunk = reparameterize_model(exported.visual.trunk)
    elif getattr(exported.visual, "pool_type", "") == "tok" and exported.visual.attn_pool is None:
        pool_last(exported.visual.transformer)

    def encode(images: Sequence[Image]) -> Tensor:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        fields = ("size", "mean", "std", "interpolation", "resize_mode", "fill_color")
        config = PreprocessCfg(**{field: getattr(preprocess, field) for field in fields})
        transform = image_transform_v2(config, is_train=False)
        encoded: Tensor = model.encode_image(torch.stack([transform(image) for image in images]))
        return encoded

    return ImageSource(Pixels(exported), preprocess, encode)


def _text(model: Any, architecture: str) -> TextSource:
    tokenizer = _tokenizer(architecture)
    tower = _text_tower(model)
    clean = getattr(getattr(tokenizer, "clean_fn", None), "__name__", "").removeprefix("_clean_")
    own = hasattr(tokenizer, "bpe_ranks") and not tokenizer.reduction_fn
    library = hasattr(tokenizer, "tokenizer_mode") and not tokenizer.tokenizer_mode
    if clean not in CLEANERS or not (own or library):
        raise BakeError(
            f"The text tower of {architecture} has a tokenizer that cannot be baked yet; "
            "--towers image bakes its image tower."
        )
    _check_vocabulary(architecture, tower, tokenizer)

    def encode(texts: Sequence[str]) -> Tensor:
        encoded: Tensor = model.encode_text(tokenizer(list(texts)))
        return encoded

    exported: Any = plain(model)
    sample = tokenizer(["a cat", "two small dogs in the snow"])
    if own:
        spec = TextSpec(
            context_length=tokenizer.context_length,
            trim=_causal(tower),
            clean=clean,
            pad_id=0,
            start_id=tokenizer.sot_token_id,
            end_id=tokenizer.eot_token_id,
        )
        if not spec.trim:
            return TextSource(Text(exported), spec, sample, partial(write_clip, tokenizer), encode)
        exported = _text_tower(exported)
        pool_last(exported.transformer)
        return TextSource(CausalText(exported), spec, sample[:, :9], partial(write_clip, tokenizer), encode)
    inner = tokenizer.tokenizer
    spec = TextSpec(
        context_length=tokenizer.context_length,
        # Hugging Face's encoders get a mask that hides padding from them.
        trim=hasattr(tower, "config") and getattr(tower.config, "pad_token_id", None) == inner.pad_token_id,
        clean=clean,
        pad_id=inner.pad_token_id,
        kind="library",
        pad_side=inner.padding_side,
    )
    if hasattr(tower, "transformer") and hasattr(tower.transformer, "set_attn_implementation"):
        # Its arithmetic in plain operators; the other ways branch on shapes.
        exported = copy.deepcopy(exported)
        exported.text.transformer.set_attn_implementation("eager")
    dropped = inner.sep_token_id if tokenizer.strip_sep_token else None
    write = partial(write_library, inner, tokenizer.context_length)
    return TextSource(Text(exported, dropped), spec, sample[:, :9] if spec.trim else sample, write, encode)


def _tokenizer(architecture: str) -> Any:
    open_clip = import_open_clip()
    name = open_clip.get_model_config(architecture)["text_cfg"].get("hf_tokenizer_name", "")
    try:
        if name and not Path(name).is_dir():
            hub.knock(name, "tokenizer.json", "tokenizer_config.json")
        return open_clip.get_tokenizer(architecture)
    except Exception as error:
        raise BakeError(
            f"The tokenizer of {architecture} cannot be loaded: {root_cause(error)}. Check the network "
            "(HF_ENDPOINT names the hub), or use a --config whose hf_tokenizer_name is a local folder."
        ) from error


def _check_vocabulary(architecture: str, tower: Any, tokenizer: Any) -> None:
    makes = tokenizer.vocab_size if hasattr(tokenizer, "bpe_ranks") else len(tokenizer.tokenizer)
    has = tower.token_embedding.num_embeddings if hasattr(tower, "token_embedding") else tower.vocab_size
    if has < makes:
        raise BakeError(
            f"The text tower of {architecture} has {has:,} token vectors, its tokenizer "
            f"makes {makes:,} different tokens."
        )


def _text_tower(model: Any) -> Any:
    # open_clip keeps the parts of a plain CLIP's text tower on the model itself.
    return model if hasattr(model, "token_embedding") else model.text


def _causal(tower: Any) -> bool:
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    return (
        getattr(tower, "attn_mask", None) is not None
        and getattr(tower, "cls_emb", None) is None
        and pool == "argmax"
        and tower.text_projection is not None
    )
