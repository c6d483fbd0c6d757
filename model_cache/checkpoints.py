"""From a name and perhaps some files to a loaded open_clip model with the right activation."""

from __future__ import annotations

import difflib
import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from functions.engine.manifest import Preprocess
from model_cache.errors import BakeError
from model_cache.torch_setup import import_open_clip


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model, in evaluation mode and float32, and what bake must know beside its weights."""

    model: Any
    tokenizer: Any
    architecture: str
    pretrained: str
    quick_gelu: bool
    preprocess: Preprocess
    space: str


def load_checkpoint(
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
    model_config = open_clip.get_model_config(architecture)
    if model_config is None:
        raise BakeError(
            f"Unknown architecture {architecture!r}.{_suggest(architecture, open_clip.list_models())} "
            "`--list` shows what is known, `--config FILE` brings an architecture of your own."
        )
    tag_config = _tag_config(open_clip, architecture, tag, checkpoint)
    if quick_gelu is None:
        # open_clip only warns when the two differ, and then returns wrong vectors: the tag knows.
        source = tag_config if tag_config else model_config
        quick_gelu = bool(source.get("quick_gelu", False))
    path = checkpoint if checkpoint else _download(open_clip, name, tag_config)
    if not path.is_file():
        raise BakeError(f"No checkpoint at {path}.")
    model = _build(open_clip, architecture, quick_gelu)
    _load_weights(open_clip, model, path, architecture)
    preprocess = {**model.visual.preprocess_cfg, **tag_config}
    return Checkpoint(
        model=model,
        tokenizer=open_clip.get_tokenizer(architecture),
        architecture=architecture,
        pretrained=tag or path.name,
        quick_gelu=quick_gelu,
        preprocess=_preprocess(preprocess),
        space=_space(model, model_config, quick_gelu),
    )


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
    try:
        return Path(open_clip.download_pretrained(tag_config))
    except Exception as error:
        raise BakeError(
            f"The weights of {name} could not be downloaded from {_source(tag_config)}: {_reason(error)}. "
            "Check the network (HF_ENDPOINT names the hub), or pass a local file with --checkpoint, which "
            "works offline."
        ) from error


def _source(tag_config: dict[str, Any]) -> str:
    if not tag_config.get("hf_hub"):
        return str(tag_config.get("url", "an unknown place"))
    from huggingface_hub import constants

    repository, _, filename = tag_config["hf_hub"].rpartition("/")
    return f"{constants.ENDPOINT}/{repository}/resolve/main/{filename or 'open_clip_model.safetensors'}"


def _reason(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return f"{type(error).__name__}: {error}".strip(": ").splitlines()[0].rstrip(".")


def _build(open_clip: Any, architecture: str, quick_gelu: bool) -> Any:
    model = open_clip.create_model(architecture, load_weights=False, quick_gelu=quick_gelu)
    return model.float().eval()


def _load_weights(open_clip: Any, model: Any, path: Path, architecture: str) -> None:
    try:
        open_clip.load_checkpoint(model, str(path))
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


def _space(model: Any, model_config: dict[str, Any], quick_gelu: bool) -> str:
    digest = hashlib.sha256(json.dumps([model_config, quick_gelu], sort_keys=True).encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().contiguous().numpy().data)
    return digest.hexdigest()[:16]
