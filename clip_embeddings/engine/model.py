"""A baked model in a serving process. Its towers load at first use and turn texts and images into vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clip_embeddings import marks
from clip_embeddings.engine import canary
from clip_embeddings.engine.manifest import (
    Manifest,
    ModelError,
    Preprocess,
    TextSpec,
    Tower,
    load_manifest,
    tokenizer_file,
)
from clip_embeddings.engine.scheduler import Scheduler, no_check
from clip_embeddings.engine.session import open_session, run_session
from clip_embeddings.engine.tokenizer import load_tokenizer, pad, tokenize
from clip_embeddings.lazy import Lazy

if TYPE_CHECKING:
    import onnxruntime as ort
    from PIL import Image

    from clip_embeddings.engine.tokenizer import Tokenizer

# Bounds of one run. More tokens or images make it no cheaper for each (they fall out of the CPU's caches),
# but take more memory, and make others wait longer. Measured on an int8 ViT-B/32 with one thread: 224 tokens
# cost 1.0 ms for each text of 7, a single text of 7 costs 3.5 ms; four images 16.5 ms each, one 19.5 ms.
TEXT_ROWS = 32
RUN_TOKENS = 224
IMAGE_ROWS = 4
# Maximum padding tokens per text run. An extra run costs about as much as 32 tokens.
MAX_PADDING = 32
# A request is not cut into smaller runs than this to use idle CPUs.
MIN_TOKENS = 32
# Bytes of an image tower's files above which one image is work enough for several CPU threads. An int8
# ViT-B/32 has 97 MB: a second thread would cost it a quarter more CPU time.
LARGE_IMAGE_TOWER = 200_000_000


@dataclass(frozen=True)
class TextVectors:
    """`vectors`: (n, d) float32; `truncated`: indices of the texts cut at the context length."""

    vectors: np.ndarray
    truncated: list[int]
    # Tokens of each text, start and end included.
    token_counts: list[int]


@dataclass(frozen=True)
class TextTower:
    """A loaded text tower. The items of its runs are lists of token ids."""

    tower: Tower
    spec: TextSpec
    tokenizer: Tokenizer
    session: ort.InferenceSession
    scheduler: Scheduler
    threads: int = 1

    def embed(
        self, texts: Sequence[str], *, background: bool = False, check: Callable[[], None] = no_check
    ) -> TextVectors:
        """Embed `texts`, at least one.

        Returns:
            Raw projections in the order of `texts`, not normalized.

        Raises:
            OverloadedError: too many requests wait for the model. Never raised with `background`.
            Exception: what `check` raises, which is called before each run.
        """
        tokens = tokenize(self.tokenizer, self.spec, texts)
        lengths = [self._length(ids) for ids in tokens.ids]
        # Texts of similar length run together, so that a long one does not pad the short ones.
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        # Idle CPUs share the work.
        share = ceil(sum(lengths) / max(1, self.scheduler.idle_runs(self)))
        parts = list(_batches(order, lengths, min(RUN_TOKENS, max(MIN_TOKENS, share))))
        batches = [[tokens.ids[index] for index in part] for part in parts]
        projections = self.scheduler.run(self, batches, background=background, check=check)
        vectors = np.empty_like(projections)
        vectors[order] = projections
        return TextVectors(vectors, tokens.truncated, [len(ids) for ids in tokens.ids])

    def too_long(self, texts: Sequence[str]) -> list[int]:
        """Indices of the texts that `embed` would cut at the context length."""
        return tokenize(self.tokenizer, self.spec, texts).truncated

    def may_run_together(self, items: Sequence[list[int]]) -> bool:
        """Whether one run may have the token ids `items`."""
        return _is_one_run(list(map(self._length, items)), RUN_TOKENS)

    def run(self, items: Sequence[list[int]]) -> np.ndarray:
        """The projections of the token ids `items`: (n, d) float32."""
        return run_session(self.session, pad(items, self.spec))

    def _length(self, ids: Sequence[int]) -> int:
        return len(ids) if self.spec.trim else self.spec.context_length


@dataclass(frozen=True)
class ImageTower:
    """A loaded image tower. The items of its runs are pixels."""

    tower: Tower
    preprocess: Preprocess
    session: ort.InferenceSession
    scheduler: Scheduler
    threads: int = 1

    def pixels(self, image: Image.Image) -> np.ndarray:
        """`image` as the tower's input: (3, height, width) float32."""
        # Imported late, because it imports Pillow, which a process without an image tower does not need.
        from clip_embeddings.engine.preprocess import to_pixels

        return to_pixels(image, self.preprocess)

    def embed(
        self, pixels: Sequence[np.ndarray], *, background: bool = False, check: Callable[[], None] = no_check
    ) -> np.ndarray:
        """Embed images, at least one, given as `pixels` returns them.

        Returns:
            Raw projections, not normalized: (n, d) float32.

        Raises:
            OverloadedError: too many requests wait for the model. Never raised with `background`.
            Exception: what `check` raises, which is called before each run.
        """
        # Idle CPUs share the work.
        share = ceil(len(pixels) / max(1, self.scheduler.idle_runs(self)))
        rows = min(self._max_rows, share)
        parts = [pixels[start : start + rows] for start in range(0, len(pixels), rows)]
        return self.scheduler.run(self, parts, background=background, check=check)

    def may_run_together(self, items: Sequence[np.ndarray]) -> bool:
        """Whether one run may have the pixels `items`."""
        return len(items) <= self._max_rows

    def run(self, items: Sequence[np.ndarray]) -> np.ndarray:
        """The projections of the pixels `items`: (n, d) float32."""
        return run_session(self.session, np.stack(items))

    @property
    def _max_rows(self) -> int:
        # A large tower's single image fills the caches, and its activations take the most memory.
        return IMAGE_ROWS if self.threads == 1 else 1


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
    scheduler: Scheduler,
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
        Lazy(lambda: _open_text(folder, manifest, scheduler)),
        Lazy(lambda: _open_image(folder, manifest, scheduler)),
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


def _open_text(folder: Path, manifest: Manifest, scheduler: Scheduler) -> TextTower:
    marks.mark("text_opening")
    tower = _tower(manifest, "text")
    assert tower.text is not None
    with ThreadPoolExecutor(1, thread_name_prefix="tokenizer") as pool:
        tokenizer = pool.submit(load_tokenizer, folder / tokenizer_file(tower))
        session = open_session(folder, tower.files, threads=1)
        opened = TextTower(tower, tower.text, tokenizer.result(), session, scheduler)
    marks.mark("text_opened")
    return opened


def _open_image(folder: Path, manifest: Manifest, scheduler: Scheduler) -> ImageTower:
    marks.mark("image_opening")
    tower = _tower(manifest, "image")
    assert tower.preprocess is not None
    large = sum(file.bytes for file in tower.files) > LARGE_IMAGE_TOWER
    threads = scheduler.cpus if large else 1
    session = open_session(folder, tower.files, threads, convolutional=tower.convolutional)
    marks.mark("image_opened")
    return ImageTower(tower, tower.preprocess, session, scheduler, threads)


def _tower(manifest: Manifest, name: str) -> Tower:
    if name not in manifest.towers:
        raise ModelError(f"The model {manifest.name} has no {name} tower.")
    return manifest.towers[name]


def _batches(order: Sequence[int], lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Split `order`, row numbers sorted by length, into runs."""
    batch: list[int] = []
    for row in order:
        if batch and not _is_one_run([lengths[index] for index in (*batch, row)], max_tokens):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _is_one_run(lengths: Sequence[int], max_tokens: int) -> bool:
    """Whether texts of these numbers of tokens are few and similar enough for one run."""
    tokens = len(lengths) * max(lengths)
    return len(lengths) <= TEXT_ROWS and tokens <= max_tokens and tokens - sum(lengths) <= MAX_PADDING
