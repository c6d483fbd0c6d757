"""Sets of labels with their vectors, and the file that carries them to where no text tower is.

Photos are indexed by functions that hold an image tower only. So staging embeds the labels, and writes
`labels.json` beside the staged manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from clip_embeddings.engine.manifest import Manifest, fingerprint
from clip_embeddings.engine.model import TextTower
from clip_embeddings.engine.zero_shot import NEUTRAL_LABELS, label_vectors, prompts
from clip_embeddings.errors import ConfigError
from clip_embeddings.label_settings import LABELS_FILE, LabelSettings
from clip_embeddings.logs import logger

FORMAT = 1
# Texts that are embedded at once, which bounds the memory.
TEXTS = 256

# Default thresholds: of a model whose labels share one probability (CLIP), measured on the emoji of the demo
# model, and of one that gives each label its own (SigLIP). There a label that fits has about 0.3 in the
# example of Hugging Face's documentation: https://huggingface.co/docs/transformers/model_doc/siglip
SHARED_THRESHOLD, OWN_THRESHOLD = 0.8, 0.2

# Texts that fit every picture equally well. A softmax gives some label a high probability even if the picture
# shows none of them; these texts take it instead. Measured on the emoji of the demo model, see "Labels" in
# docs/photos-and-index.md.
BACKGROUND = (*NEUTRAL_LABELS, "a photo", "a picture", "something", "something else")


class LabelSet(msgspec.Struct, frozen=True):
    """Labels, and everything else that decides which of them a picture's vector gets."""

    labels: tuple[str, ...]
    templates: tuple[str, ...]
    threshold: float
    # Texts that are no labels and take part in the softmax; none for a model whose labels are independent.
    background: tuple[str, ...]
    space: str
    # Of the text tower that embeds the labels.
    text_fingerprint: str
    # See Manifest.
    logit_scale: float
    logit_bias: float | None

    @property
    def identity(self) -> str:
        """The value of `Entry.label_set`: 16 hexadecimal digits that change when anything here does."""
        return fingerprint("labels", *msgspec.structs.astuple(self))


class LabelFile(msgspec.Struct, frozen=True):
    """The contents of labels.json."""

    format: int
    # The identity of `labels`. Staging hashes it in the place of the vectors, see deploy/staging.py.
    identity: str
    labels: LabelSet
    # (labels + background, d) little-endian float32, row by row; base64 in the file.
    vectors: bytes
    # SHA-256 of `vectors`, hexadecimal.
    sha256: str


def make_label_set(settings: LabelSettings, manifest: Manifest) -> LabelSet:
    """The labels of `settings` for a model.

    Raises:
        ConfigError: the model cannot classify.
    """
    text = manifest.towers.get("text")
    if text is None:
        raise ConfigError(f"The model {manifest.name} has no text tower: it cannot embed PHOTO_LABELS.")
    if manifest.logit_scale is None:
        raise ConfigError(
            f"The manifest of {manifest.name} has no logit_scale, which PHOTO_LABELS needs: bake the model "
            "again."
        )
    is_shared = manifest.logit_bias is None
    default = SHARED_THRESHOLD if is_shared else OWN_THRESHOLD
    return LabelSet(
        labels=settings.labels,
        templates=settings.templates,
        threshold=default if settings.threshold is None else settings.threshold,
        background=BACKGROUND if is_shared else (),
        space=manifest.space,
        text_fingerprint=text.fingerprint,
        logit_scale=manifest.logit_scale,
        logit_bias=manifest.logit_bias,
    )


def embed_labels(label_set: LabelSet, tower: TextTower) -> np.ndarray:
    """The unit vectors of the labels, then those of the background: (labels + background, d) float32.

    Raises:
        ModelError: the tower does not reproduce its canary vector.
    """
    templates = label_set.templates
    texts = [text for label in label_set.labels for text in prompts(label, templates)]
    rows = [label_vectors(_embed(texts, tower), len(templates))]
    if label_set.background:
        rows.append(label_vectors(_embed(label_set.background, tower), 1))
    return np.concatenate(rows)


def write_labels(label_set: LabelSet, vectors: np.ndarray, path: Path) -> None:
    """Write the file of a set of labels."""
    data = vectors.astype("<f4").tobytes()
    content = LabelFile(FORMAT, label_set.identity, label_set, data, hashlib.sha256(data).hexdigest())
    path.write_bytes(msgspec.json.encode(content) + b"\n")


def read_labels(folder: Path, manifest: Manifest) -> tuple[LabelSet, np.ndarray] | None:
    """The labels beside the model in `folder` and their vectors, as `embed_labels` gives them; None if the
    folder has none.

    Raises:
        ConfigError: the file is damaged, or of another model.
    """
    path = folder / LABELS_FILE
    try:
        content = msgspec.json.decode(path.read_bytes(), type=LabelFile)
        vectors = _parse_vectors(content, manifest.dimensions)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): stage this function again.") from None
    labels, text = content.labels, manifest.towers.get("text")
    if labels.space != manifest.space or (text and labels.text_fingerprint != text.fingerprint):
        raise ConfigError(
            f"{path} has the labels of another model than {manifest.name}: stage this function again."
        )
    return labels, vectors


def _parse_vectors(content: LabelFile, dimensions: int) -> np.ndarray:
    """The vectors of a file. Raises ValueError if they are not what the rest of it says."""
    if content.format != FORMAT or content.identity != content.labels.identity:
        raise ValueError("made by another version of this package")
    rows = len(content.labels.labels) + len(content.labels.background)
    if hashlib.sha256(content.vectors).hexdigest() != content.sha256:
        raise ValueError("its vectors are damaged")
    vectors = np.frombuffer(content.vectors, "<f4")
    if not content.labels.labels or vectors.size != rows * dimensions:
        raise ValueError(f"it does not have a vector of {dimensions} dimensions for each label")
    vectors = vectors.reshape(rows, dimensions).astype(np.float32)
    if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
        raise ValueError("its vectors do not have length 1")
    return vectors


def _embed(texts: Sequence[str], tower: TextTower) -> np.ndarray:
    if cut := tower.too_long(texts):
        logger.warning(
            "%d texts of labels are longer than the model reads, which cuts them, such as %r.",
            *(len(cut), texts[cut[0]]),
        )
    parts = (texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS))
    return np.concatenate([tower.embed(part, background=True).vectors for part in parts])
