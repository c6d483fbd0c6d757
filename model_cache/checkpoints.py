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
from model_cache.errors import BakeError, root_cause
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
    model = _build(open_clip, architecture, quick_gelu)
    _load_weights(open_clip, model, path, architecture)
    preprocess = {**model.visual.preprocess_cfg, **tag_config}
    return Checkpoint(
        model=model,
        tokenizer=_tokenizer(open_clip, architecture, model_config),
        architecture=architecture,
        pretrained=tag or path.name,
        quick_gelu=quick_gelu,
        preprocess=_preprocess(preprocess),
        space=_space(model, model_config, quick_gelu),
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
    try:
        _knock(tag_config)
        return Path(open_clip.download_pretrained(tag_config))
    except Exception as error:
        raise BakeError(
            f"The weights of {name} could not be downloaded from {_source(tag_config)}: {root_cause(error)}. "
            "Check the network (HF_ENDPOINT names the hub), or pass a local file with --checkpoint, which "
            "works offline."
        ) from error


def _knock(tag_config: dict[str, Any]) -> None:
    """Fail at once where the hub is out of reach: huggingface_hub itself would try again for a minute."""
    from huggingface_hub import get_session, try_to_load_from_cache

    repository, _, filename = tag_config.get("hf_hub", "").rpartition("/")
    names = (filename or "open_clip_pytorch_model.bin", _safetensors(filename))
    if any(isinstance(try_to_load_from_cache(repository, name), str) for name in names):
        return
    answer = get_session().head(_source(tag_config), timeout=10)
    if answer.status_code >= 500:
        answer.raise_for_status()


def _safetensors(filename: str) -> str:
    """The file that open_clip asks a hub for first, instead of `filename`."""
    return str(Path(filename).with_suffix(".safetensors")) if filename else "open_clip_model.safetensors"


def _source(tag_config: dict[str, Any]) -> str:
    if not tag_config.get("hf_hub"):
        return str(tag_config.get("url", "an unknown place"))
    from huggingface_hub import constants

    repository, _, filename = tag_config["hf_hub"].rpartition("/")
    return f"{constants.ENDPOINT}/{repository}/resolve/main/{_safetensors(filename)}"


def _build(open_clip: Any, architecture: str, quick_gelu: bool) -> Any:
    try:
        model = open_clip.create_model(
            architecture, load_weights=False, pretrained_text=False, quick_gelu=quick_gelu
        )
    except Exception as error:
        raise BakeError(f"open_clip cannot build {architecture}: {root_cause(error)}.") from error
    return model.float().eval()


def _tokenizer(open_clip: Any, architecture: str, model_config: dict[str, Any]) -> Any:
    """open_clip's tokenizer, or None where it is not CLIP's own: an image tower needs none."""
    text = model_config["text_cfg"]
    if text.get("hf_tokenizer_name") or text.get("hf_model_name"):
        return None
    return open_clip.get_tokenizer(architecture)


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


def _space(model: Any, model_config: dict[str, Any], quick_gelu: bool) -> str:
    digest = hashlib.sha256(json.dumps([model_config, quick_gelu], sort_keys=True).encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().contiguous().numpy().data)
    return digest.hexdigest()[:16]
