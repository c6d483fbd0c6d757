"""A baked model in a serving process. Its towers load at first use and turn texts and images into vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np

from clip_embeddings.engine import canary
from clip_embeddings.engine.manifest import (
    Manifest,
    ModelError,
    Preprocess,
    TextSpec,
    Tower,
    load_manifest,
    tokenizer_file,
    verify_files,
)
from clip_embeddings.engine.scheduler import Scheduler, no_check
from clip_embeddings.engine.session import OpenedSessions, open_session, run_session, uses_all_cpus
from clip_embeddings.engine.tokenizer import load_tokenizer, pad, tokenize
from clip_embeddings.lazy import Lazy
from clip_embeddings.logs import logger

if TYPE_CHECKING:
    import onnxruntime as ort
    from PIL import Image

    from clip_embeddings.engine.tokenizer import Tokenizer

T = TypeVar("T")

# For towers without a recorded canary vector.
ALWAYS = Lazy(lambda: True)

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


class TextVectors(msgspec.Struct, frozen=True):
    """`vectors`: (n, d) float32; `truncated`: indices of the texts cut at the context length."""

    vectors: np.ndarray
    truncated: list[int]
    # Tokens of each text, start and end included.
    token_counts: list[int]


class TextTower(msgspec.Struct, frozen=True):
    """A loaded text tower. The items of its runs are lists of token ids."""

    tower: Tower
    spec: TextSpec
    tokenizer: Tokenizer
    session: ort.InferenceSession
    scheduler: Scheduler
    threads: int = 1
    # Made once the tower has reproduced its canary vector on this CPU.
    canary: Lazy[bool] = ALWAYS

    def embed(
        self, texts: Sequence[str], *, background: bool = False, check: Callable[[], None] = no_check
    ) -> TextVectors:
        """Embed `texts`, at least one.

        Returns:
            Raw projections in the order of `texts`, not normalized.

        Raises:
            ModelError: the tower does not reproduce its canary vector.
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
        # No vector leaves a tower that does not work. The first caller waits for the canary.
        self.canary.get()
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


class ImageTower(msgspec.Struct, frozen=True):
    """A loaded image tower. The items of its runs are pixels."""

    tower: Tower
    preprocess: Preprocess
    session: ort.InferenceSession
    scheduler: Scheduler
    threads: int = 1
    # Made once the tower has reproduced its canary vector on this CPU.
    canary: Lazy[bool] = ALWAYS

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
            ModelError: the tower does not reproduce its canary vector.
            OverloadedError: too many requests wait for the model. Never raised with `background`.
            Exception: what `check` raises, which is called before each run.
        """
        # Idle CPUs share the work.
        share = ceil(len(pixels) / max(1, self.scheduler.idle_runs(self)))
        rows = min(self._max_rows, share)
        parts = [pixels[start : start + rows] for start in range(0, len(pixels), rows)]
        projections = self.scheduler.run(self, parts, background=background, check=check)
        # No vector leaves a tower that does not work. The first caller waits for the canary.
        self.canary.get()
        return projections

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


class Model(msgspec.Struct, frozen=True):
    """A baked model and its two towers, each opened at first use."""

    folder: Path
    manifest: Manifest
    text: Lazy[TextTower]
    image: Lazy[ImageTower]

    def tower(self, name: str) -> Lazy[TextTower] | Lazy[ImageTower]:
        """The tower "text" or "image"."""
        return self.text if name == "text" else self.image


def load_model(
    folder: Path,
    towers: Sequence[str],
    *,
    scheduler: Scheduler,
    allow_missing_towers: bool = False,
    verify_first: bool = False,
    sessions: OpenedSessions | None = None,
) -> Model:
    """The model baked in `folder`. Checks the files of `towers` now; each tower is opened at first use.

    Args:
        allow_missing_towers: the model may lack some of `towers`.
        verify_first: check the SHA-256 of a tower's files before it is opened.
        sessions: those that are opened ahead. A tower takes its own out.

    Raises:
        ModelError: the artifact is missing, or a file has another size. Damage inside a file is reported when
            its tower is opened, or by `verification.Verification`.
    """
    manifest = load_manifest(folder, towers, allow_missing_towers=allow_missing_towers)

    def open_tower(name: str, complete: Callable[[Tower, ort.InferenceSession], T]) -> T:
        tower = manifest.towers.get(name)
        if tower is None:
            raise ModelError(f"The model {manifest.name} has no {name} tower.")
        if verify_first:
            verify_files(folder, tower.files)
        try:
            ahead = (sessions or {}).pop(folder / tower.files[0].path, None)
            session = ahead.get() if ahead else open_session(folder, tower, _threads(tower, scheduler))
            # The provider in use: without a device, ONNX Runtime falls back to the CPU.
            provider = session.get_providers()[0].removesuffix("ExecutionProvider")
            logger.info("%s runs on %s", tower.files[0].path, provider)
            return complete(tower, session)
        except ModelError:
            # A damaged file explains best what went wrong.
            verify_files(folder, tower.files)
            raise

    return Model(
        folder,
        manifest,
        Lazy(lambda: open_tower("text", partial(_text_tower, folder, manifest.name, scheduler))),
        Lazy(lambda: open_tower("image", partial(_image_tower, manifest.name, scheduler))),
    )


def normalize_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale each row of `vectors` to length 1: (n, d) float32. A zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: np.ndarray = vectors / np.maximum(lengths, np.float32(1e-12))
    return result


def _text_tower(
    folder: Path, model: str, scheduler: Scheduler, tower: Tower, session: ort.InferenceSession
) -> TextTower:
    assert tower.text is not None
    tokenizer = load_tokenizer(folder / tokenizer_file(tower))
    opened = TextTower(tower, tower.text, tokenizer, session, scheduler)

    def run_canary() -> bool:
        ids = tokenize(opened.tokenizer, opened.spec, [tower.canary.input]).ids
        canary.check(model, tower, normalize_rows(opened.run(ids))[0])
        return True

    return msgspec.structs.replace(opened, canary=Lazy(run_canary))


def _image_tower(model: str, scheduler: Scheduler, tower: Tower, session: ort.InferenceSession) -> ImageTower:
    assert tower.preprocess is not None
    opened = ImageTower(tower, tower.preprocess, session, scheduler, _threads(tower, scheduler))

    def run_canary() -> bool:
        pixels = opened.pixels(canary.canary_image(tower.canary.input))
        canary.check(model, tower, normalize_rows(opened.run([pixels]))[0])
        return True

    return msgspec.structs.replace(opened, canary=Lazy(run_canary))


def _threads(tower: Tower, scheduler: Scheduler) -> int:
    return scheduler.cpus if uses_all_cpus(tower) else 1


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
