"""The manifest: the description of a baked model, read from `manifest.json` into frozen dataclasses.

`bake` writes it with `to_json`, the serving process reads it with `load_manifest`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

FORMAT = 1
TOWERS = ("text", "image")
# The file of a text tower with its tokenizer: CLIP's merges, or a file of the `tokenizers` library.
BYTE_PAIR_TOKENIZER = "tokenizer.bpe"
LIBRARY_TOKENIZER = "tokenizer.json"


class ModelError(Exception):
    """A baked model is missing, damaged or of an unknown format. The message says how to fix it."""


@dataclass(frozen=True)
class ModelFile:
    """One file of a tower: its path relative to the model's folder, its size in bytes and its SHA-256."""

    path: str
    bytes: int
    sha256: str
    # First byte and length of a table of which a run needs a few rows, such as the vectors of all tokens.
    table: tuple[int, int] | None = None


@dataclass(frozen=True)
class Canary:
    """A fixed input and the L2-normalized vector that the artifact gave for it when it was baked."""

    input: str
    vector: tuple[float, ...]


@dataclass(frozen=True)
class TextSpec:
    """How text becomes tokens.

    `trim`: whether a batch may be as short as its longest text. It may where the tower is causal and pools at
    the end-of-text token, or where it masks padding. Otherwise every row is padded to `context_length`.

    `kind`: with `clip`, open_clip's own method, `start_id` and `end_id` are put around the merged byte pairs.
    With `library`, tokenizer.json does everything after cleaning, special tokens and truncation included.
    """

    context_length: int
    trim: bool
    # Name of a cleaning rule: a key of tokenizer.CLEANERS.
    clean: str
    pad_id: int
    kind: Literal["clip", "library"] = "clip"
    start_id: int = -1
    end_id: int = -1
    pad_side: Literal["right", "left"] = "right"


@dataclass(frozen=True)
class Preprocess:
    """How open_clip prepares images for a model: the fields of its `PreprocessCfg`."""

    # Height and width of the model's input, in pixels.
    size: tuple[int, int]
    # Mean and standard deviation per channel, of values from 0 to 1.
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    # shortest: fill the input and crop. longest: fit into it and pad. squash: ignore the aspect ratio.
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    # Value of the padding, 0-255, in every band of the image's own mode.
    fill_color: int = 0
    # Shorter side to resize to before the crop, in pixels, if that is not the size of the input.
    resize: int | None = None


@dataclass(frozen=True)
class Tower:
    """One half of a model: its files, the graph first, and everything that determines its vectors."""

    name: str
    files: tuple[ModelFile, ...]
    precision: str
    fingerprint: str
    canary: Canary
    text: TextSpec | None = None
    preprocess: Preprocess | None = None
    # A convolutional network gains from a tensor layout chosen for the CPU: see session.py.
    convolutional: bool = False
    # Figures measured by bake, for information: cosine to PyTorch, size, load time, milliseconds.
    parity: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Manifest:
    """A baked model. `space` names the checkpoint: only vectors of the same space are comparable."""

    name: str
    architecture: str
    pretrained: str
    quick_gelu: bool
    space: str
    dimensions: int
    normalize: bool
    towers: Mapping[str, Tower]
    tools: Mapping[str, str]
    # Other names by which requests may name it.
    aliases: tuple[str, ...] = ()
    # What zero-shot classification multiplies cosines by, the exponential of the checkpoint's weight, and
    # what it adds: see zero_shot.py. None where the checkpoint has none, and in older manifests.
    logit_scale: float | None = None
    logit_bias: float | None = None

    def is_called(self, name: str) -> bool:
        """Whether `name` is the name or an alias of this model, in any spelling with the same slug."""
        return slug(name) in map(slug, (self.name, *self.aliases))

    def is_checkpoint(self, name: str) -> bool:
        """Whether `name` is this model's checkpoint, `ARCHITECTURE/PRETRAINED`, in any spelling with the same
        slug: `ViT-B-32/openai`, or `ViT-B-32__openai`."""
        return slug(name) == slug(f"{self.architecture}/{self.pretrained}")


def load_manifest(
    folder: Path, towers: Sequence[str] = (), *, allow_missing_towers: bool = False
) -> Manifest:
    """Read `folder`/manifest.json and check that every file of `towers` exists and has its full size.

    A model is named after its folder. If that was renamed, the name it was baked under stays as an alias.
    With `allow_missing_towers`, the model may lack some of `towers`.

    Raises:
        ModelError: the manifest is missing or cannot be read, a tower or a file is missing, or a file has
            another size.
    """
    path = folder / "manifest.json"
    try:
        manifest = _named_after_folder(from_json(path.read_text(encoding="utf-8")), folder)
    except FileNotFoundError:
        raise ModelError(
            f"No baked model at {folder}: manifest.json is missing. "
            "Bake one with `python -m model_cache.bake NAME`, or set MODEL to a model that is baked."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} cannot be read ({type(error).__name__}: {error}). Bake the model again."
        ) from None
    for name in towers:
        if name not in manifest.towers:
            if allow_missing_towers:
                continue
            raise ModelError(f"The model {manifest.name} has no {name} tower, which this function needs.")
        for file in manifest.towers[name].files:
            _check_size(folder / file.path, file.bytes)
    return manifest


def _named_after_folder(manifest: Manifest, folder: Path) -> Manifest:
    # As a slug, because names are sent in headers.
    name = slug(folder.absolute().name)
    if name in ("", slug(manifest.name)):
        return manifest
    return replace(manifest, name=name, aliases=(*manifest.aliases, manifest.name))


def _check_size(path: Path, expected: int) -> None:
    try:
        actual = path.stat().st_size
    except OSError:
        raise ModelError(f"{path} is missing. Bake the model again or restore the file.") from None
    if actual != expected:
        raise ModelError(
            f"{path} has {actual:,} bytes, its manifest says {expected:,}: the file is damaged or was "
            "replaced (a Git LFS pointer?). Bake the model again or restore the file."
        )


def to_json(manifest: Manifest) -> str:
    """`manifest` as the contents of manifest.json."""
    return json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1) + "\n"


def from_json(text: str) -> Manifest:
    """The manifest in `text`. Raises ValueError, KeyError, TypeError or AttributeError if it holds none."""
    data = json.loads(text)
    if data.pop("format") != FORMAT:
        raise ValueError("made by another version of this package")
    data["towers"] = {name: _tower(tower) for name, tower in data["towers"].items()}
    data["aliases"] = tuple(data.get("aliases", ()))
    for name in ("logit_scale", "logit_bias"):
        if data.get(name) is not None:
            data[name] = float(data[name])
            if not math.isfinite(data[name]):
                raise ValueError(f"{name} is no finite number")
    return Manifest(**data)


def _file(data: dict[str, Any]) -> ModelFile:
    if data.get("table"):
        data["table"] = tuple(data["table"])
    return ModelFile(**data)


def _tower(data: dict[str, Any]) -> Tower:
    data["files"] = tuple(_file(file) for file in data["files"])
    for file in data["files"]:
        if Path(file.path).name != file.path:
            raise ValueError(f"file name {file.path!r} leaves the model's folder")
    data["canary"] = Canary(data["canary"]["input"], tuple(data["canary"]["vector"]))
    if data["text"]:
        data["text"] = TextSpec(**data["text"])
    if data["preprocess"]:
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in data["preprocess"].items()
        }
        data["preprocess"] = Preprocess(**fields)
    return Tower(**data)


def tokenizer_file(tower: Tower) -> str:
    """The name of the file with the tokenizer of `tower`, a text tower.

    Models baked by earlier versions have CLIP's tokenizer as a file of the library.
    """
    is_byte_pairs = any(file.path == BYTE_PAIR_TOKENIZER for file in tower.files)
    return BYTE_PAIR_TOKENIZER if is_byte_pairs else LIBRARY_TOKENIZER


def find_model_folder(model: str, cache: Path) -> Path:
    """The folder of `model`, which is a folder itself, or the name or alias of a model baked into `cache`."""
    folder = Path(model)
    if folder.is_absolute() or (folder / "manifest.json").is_file():
        return folder
    if not (cache / slug(model)).is_dir():
        for path in sorted(cache.glob("*/manifest.json")):
            # Skips unreadable manifests; load_manifest reports them.
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                manifest = _named_after_folder(from_json(path.read_text(encoding="utf-8")), path.parent)
                if manifest.is_called(model):
                    return path.parent
    return cache / slug(model)


def slug(name: str) -> str:
    """The folder name of a baked model: `ViT-B-32/laion400m_e32` -> `vit-b-32-laion400m-e32`."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


def fingerprint(*parts: object) -> str:
    """16 hexadecimal digits that change when any of `parts` does."""
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_files(folder: Path, files: Sequence[ModelFile]) -> None:
    """Check the SHA-256 of every file. Raises ModelError for one that cannot be read or has another one."""
    for file in files:
        path = folder / file.path
        try:
            actual = sha256_of(path)
        except OSError as error:
            raise ModelError(f"{path} cannot be read ({error.strerror}): restore the file.") from None
        if actual != file.sha256:
            raise ModelError(f"{path} is damaged: its SHA-256 is not the manifest's. Bake the model again.")
