"""Loads models of open_clip: architecture, weights, activation and preprocessing."""

from __future__ import annotations

import difflib
import json
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from clip_embeddings.engine.manifest import Preprocess, slug
from model_cache.baking import hub
from model_cache.baking.catalogue import CATALOGUE, ModelSource
from model_cache.baking.checkpoints import Checkpoint
from model_cache.baking.embedding_space import space_id
from model_cache.baking.errors import BakeError, root_cause
from model_cache.baking.loaders.open_clip_towers import image_tower, text_tower
from model_cache.baking.torch_setup import import_open_clip


def load(source: ModelSource) -> Checkpoint:
    """Load the model `source.name`: ARCH/PRETRAINED, or ARCH with a local checkpoint.

    `source.checkpoint` is a local state dict (`.pt`, `.safetensors`). `source.config` defines an architecture
    in open_clip's JSON form, which gets the name ARCH. `source.quick_gelu` overrides the activation of the
    pretrained tag or architecture.

    Raises:
        BakeError: unknown name, missing or unreadable file, weights of another architecture, no network.
    """
    open_clip = import_open_clip()
    architecture, _, tag = source.name.partition("/")
    if source.config:
        _register_config(open_clip, architecture, source.config)
    # open_clip accepts "hf-hub:" and "local-dir:" names too; those have neither tags nor checkpoints.
    if architecture not in open_clip.list_models():
        raise BakeError(
            f"Unknown architecture {architecture!r}.{_suggest_name(source.name, open_clip.list_models())} "
            "`--list` shows what is known, `--config FILE` brings an architecture of your own."
        )
    model_config = open_clip.get_model_config(architecture)
    tag_config = _tag_config(open_clip, architecture, tag, source.checkpoint)
    quick_gelu = source.quick_gelu
    if quick_gelu is None:
        quick_gelu = needs_quick_gelu(model_config, tag_config)
    path = source.checkpoint if source.checkpoint else _download(open_clip, source.name, tag_config)
    if not path.is_file():
        raise BakeError(f"No checkpoint at {path}.")
    _check_text_config_reachable(model_config)
    model = _build(open_clip, architecture, quick_gelu)
    _load_weights(open_clip, model, path, architecture)
    preprocess = _preprocess({**model.visual.preprocess_cfg, **tag_config})
    return Checkpoint(
        architecture=architecture,
        pretrained=tag or path.name,
        quick_gelu=quick_gelu,
        space=space_id([model_config, quick_gelu], model),
        text=partial(text_tower, model, architecture),
        image=partial(image_tower, model, preprocess),
        logit_scale=_number(model.logit_scale.exp()),
        logit_bias=_number(model.logit_bias) if getattr(model, "logit_bias", None) is not None else None,
    )


def _number(weight: Any) -> float:
    """`weight`, of one element, in the fewest digits that give the same float32."""
    return float(str(weight.detach().float().numpy().reshape(())))


def needs_quick_gelu(model_config: dict[str, Any], tag_config: dict[str, Any]) -> bool:
    """Whether the pretrained tag or, if it does not say, the architecture has the quick-GELU activation.

    Where the two differ, open_clip only warns, follows the architecture, and then returns wrong vectors.
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


def _suggest_name(name: str, architectures: list[str]) -> str:
    """A suggestion for an unknown name: from the catalogue first, unless it is ARCH/PRETRAINED."""
    if "/" in name:
        return _suggest(name.partition("/")[0], architectures)
    public = {slug(known): known for entry in CATALOGUE for known in (*entry.aliases, entry.name)}
    start = slug(name)
    close = [key for key in public if start and key.startswith(start)][:3]
    close = close or difflib.get_close_matches(start, public, n=3, cutoff=0.75)
    return _did_you_mean([public[key] for key in close]) if close else _suggest(name, architectures)


def _suggest(word: str, known: list[str]) -> str:
    return _did_you_mean(difflib.get_close_matches(word, known, n=3, cutoff=0.5))


def _did_you_mean(close: list[str]) -> str:
    return f" Did you mean {' or '.join(close)}?" if close else ""


def _download(open_clip: Any, name: str, tag_config: dict[str, Any]) -> Path:
    repository, _, filename = tag_config.get("hf_hub", "").rpartition("/")
    # open_clip's default where the tag names no file.
    filename = filename or "open_clip_pytorch_model.bin"
    # open_clip requests the safetensors form first.
    safetensors = (
        "open_clip_model.safetensors"
        if filename == "open_clip_pytorch_model.bin"
        else str(Path(filename).with_suffix(".safetensors"))
    )
    with hub.translate_errors(
        f"The weights of {name}", repository, safetensors, url=tag_config.get("url", "")
    ):
        if repository:
            hub.check_reachable(repository, safetensors, filename)
        return Path(open_clip.download_pretrained(tag_config))


def _check_text_config_reachable(model_config: dict[str, Any]) -> None:
    """Check the hub if the text tower is one of transformers: building it downloads its configuration."""
    text_config = model_config["text_cfg"]
    repository = text_config.get("hf_model_name") if isinstance(text_config, dict) else None
    if repository and not Path(repository).is_dir():
        with hub.translate_errors(f"The configuration of {repository}", repository, "config.json"):
            hub.check_reachable(repository, "config.json")


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
    """Reject another image size or context length: open_clip silently resizes position embeddings to fit."""
    expected = model.state_dict()
    for key in ("visual.positional_embedding", "positional_embedding", "text.positional_embedding"):
        if key in weights and key in expected and len(weights[key]) != len(expected[key]):
            raise BakeError(
                f"{path.name} is not a checkpoint of {architecture}: {key} has {len(weights[key])} "
                f"positions, the architecture {len(expected[key])}. Use --config with its own image size "
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
