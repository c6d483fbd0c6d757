"""A baked model in a serving process. Its towers load at first use and turn texts and images into vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clip_embeddings.engine import canary
from clip_embeddings.engine.manifest import Manifest, ModelError, Preprocess, TextSpec, Tower, load_manifest
from clip_embeddings.engine.session import open_session, run_session
from clip_embeddings.engine.tokenizer import load_tokenizer, pad, tokenize
from clip_embeddings.lazy import Lazy
from clip_embeddings.semaphore import FairSemaphore

if TYPE_CHECKING:
    import onnxruntime as ort
    from PIL import Image
    from tokenizers import Tokenizer

# Rows of one model run: enough to use the whole CPU, few enough to bound memory and the wait of others.
TEXT_ROWS = 32
IMAGE_ROWS = 8
# Maximum padding tokens per text run. An extra run costs about as much as 32 tokens.
MAX_PADDING = 32


@dataclass(frozen=True)
class TextVectors:
    """`vectors`: (n, d) float32; `truncated`: indices of the texts cut at the context length."""

    vectors: np.ndarray
    truncated: list[int]
    # Tokens of each text, start and end included.
    token_counts: list[int]


@dataclass(frozen=True)
class TextTower:
    """A loaded text tower."""

    tower: Tower
    spec: TextSpec
    tokenizer: Tokenizer
    session: ort.InferenceSession
    run_slots: FairSemaphore

    def embed(self, texts: Sequence[str], *, background: bool = False) -> TextVectors:
        """Embed `texts`, at least one.

        Returns:
            Raw projections in the order of `texts`, not normalized.

        Raises:
            OverloadedError: too many requests wait for the model. Never raised with `background`.
        """
        tokens = tokenize(self.tokenizer, self.spec, texts)
        # Texts of similar length run together, so that a long one does not pad the short ones.
        order = sorted(range(len(texts)), key=lambda index: len(tokens.ids[index]))
        vectors: np.ndarray | None = None
        lengths = [len(ids) for ids in tokens.ids] if self.spec.trim else [0] * len(texts)
        for rows in _batches(order, lengths):
            batch = pad([tokens.ids[index] for index in rows], self.spec)
            with self.run_slots.acquire(background=background):
                projections = run_session(self.session, batch)
            if vectors is None:
                vectors = np.empty((len(texts), projections.shape[1]), np.float32)
            vectors[rows] = projections
        assert vectors is not None, "embed needs at least one text"
        return TextVectors(vectors, tokens.truncated, [len(ids) for ids in tokens.ids])

    def too_long(self, texts: Sequence[str]) -> list[int]:
        """Indices of the texts that `embed` would cut at the context length."""
        return tokenize(self.tokenizer, self.spec, texts).truncated


@dataclass(frozen=True)
class ImageTower:
    """A loaded image tower."""

    tower: Tower
    preprocess: Preprocess
    session: ort.InferenceSession
    run_slots: FairSemaphore

    def pixels(self, image: Image.Image) -> np.ndarray:
        """`image` as the tower's input: (3, height, width) float32."""
        # Imported late, because it imports Pillow, which a process without an image tower does not need.
        from clip_embeddings.engine.preprocess import to_pixels

        return to_pixels(image, self.preprocess)

    def embed(self, pixels: Sequence[np.ndarray], *, background: bool = False) -> np.ndarray:
        """Embed images, at least one, given as `pixels` returns them.

        Returns:
            Raw projections, not normalized: (n, d) float32.

        Raises:
            OverloadedError: too many requests wait for the model. Never raised with `background`.
        """
        parts = []
        for start in range(0, len(pixels), IMAGE_ROWS):
            batch = np.stack(pixels[start : start + IMAGE_ROWS])
            with self.run_slots.acquire(background=background):
                parts.append(run_session(self.session, batch))
        return np.concatenate(parts)


@dataclass(frozen=True)
class Model:
    """A baked model and its two towers, each loaded at first use."""

    manifest: Manifest
    text: Lazy[TextTower]
    image: Lazy[ImageTower]


def load_model(
    folder: Path,
    towers: Sequence[str],
    *,
    threads: int,
    run_slots: FairSemaphore,
    allow_missing_towers: bool = False,
) -> Model:
    """The model baked in `folder`. Checks the files of `towers` now; each tower is opened at first use.

    With `allow_missing_towers`, the model may lack some of `towers`.

    Raises:
        ModelError: the artifact is missing or damaged. Damage inside a file is reported at first use.
    """
    manifest = load_manifest(folder, towers, allow_missing_towers=allow_missing_towers)
    return Model(
        manifest,
        Lazy(lambda: _open_text(folder, manifest, threads, run_slots)),
        Lazy(lambda: _open_image(folder, manifest, threads, run_slots)),
    )


def normalize_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale each row of `vectors` to length 1: (n, d) float32. A zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: np.ndarray = vectors / np.maximum(lengths, np.float32(1e-12))
    return result


def check_canary(model: Model, name: str) -> None:
    """Load the tower `name` and run its canary.

    Raises:
        ModelError: the tower is damaged, or its vector differs too much from the recorded one.
    """
    tower = model.manifest.towers[name]
    if name == "text":
        vector = model.text.get().embed([tower.canary.input]).vectors
    else:
        image_tower = model.image.get()
        vector = image_tower.embed([image_tower.pixels(canary.canary_image(tower.canary.input))])
    cosine = float(normalize_rows(vector)[0] @ np.array(tower.canary.vector, np.float32))
    if not cosine >= canary.MINIMUM[tower.precision]:
        raise ModelError(
            f"The {name} tower of {model.manifest.name} does not work on this CPU: its canary has cosine "
            f"{cosine:.4f} to the baked vector, at least {canary.MINIMUM[tower.precision]} is needed. "
            "Bake with --precision fp32."
        )


def _open_text(folder: Path, manifest: Manifest, threads: int, run_slots: FairSemaphore) -> TextTower:
    tower = _tower(manifest, "text")
    assert tower.text is not None
    with ThreadPoolExecutor(1, thread_name_prefix="tokenizer") as pool:
        tokenizer = pool.submit(load_tokenizer, folder / "tokenizer.json")
        session = open_session(folder, tower.files, threads)
        return TextTower(tower, tower.text, tokenizer.result(), session, run_slots)


def _open_image(folder: Path, manifest: Manifest, threads: int, run_slots: FairSemaphore) -> ImageTower:
    tower = _tower(manifest, "image")
    assert tower.preprocess is not None
    session = open_session(folder, tower.files, threads, convolutional=tower.convolutional)
    return ImageTower(tower, tower.preprocess, session, run_slots)


def _tower(manifest: Manifest, name: str) -> Tower:
    if name not in manifest.towers:
        raise ModelError(f"The model {manifest.name} has no {name} tower.")
    return manifest.towers[name]


def _batches(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Split `order`, row numbers sorted by length, into batches with little padding."""
    batch: list[int] = []
    padding = 0
    for row in order:
        # Adding the row pads every shorter row of the batch to its length.
        extra = len(batch) * (lengths[row] - lengths[batch[-1]]) if batch else 0
        if batch and (len(batch) == TEXT_ROWS or padding + extra > MAX_PADDING):
            yield batch
            batch, padding, extra = [], 0, 0
        batch.append(row)
        padding += extra
    if batch:
        yield batch
