"""Embeds rows without end: the model's batches are filled across rows, and decoding runs beside the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from clip_embeddings.ahead import map_ahead
from clip_embeddings.bulk.reading import Decoded, read_picture
from clip_embeddings.bulk.rows import EmbeddedRow, SourceRow, failed
from clip_embeddings.engine.model import IMAGE_ROWS, TEXT_ROWS, Model, normalize_rows
from clip_embeddings.errors import ApiError
from clip_embeddings.protocols.items import parse_text
from clip_embeddings.runtime import Runtime

# Runs of pictures that are read and decoded ahead of the model. Bounds memory.
RUNS_AHEAD = 3
# Texts that are sorted by length together: enough that those of one run are of similar length.
TEXTS_TOGETHER = 16 * TEXT_ROWS


def embed_pictures(rows: Iterable[SourceRow], runtime: Runtime) -> Iterator[EmbeddedRow]:
    """Every row with its vector or its error, not in their order.

    Memory holds the pixels of `RUNS_AHEAD` runs, and what the runtime allows for pictures that are read and
    decoded; it does not grow with the number of rows.
    """
    model = runtime.default_model()
    tower = model.image.get()
    run = IMAGE_ROWS * tower.scheduler.cpus

    def read(row: SourceRow) -> Decoded | EmbeddedRow:
        return read_picture(row, tower, runtime)

    threads = runtime.settings.fetch.parallel
    batch: list[Decoded] = []
    for loaded in map_ahead(read, rows, threads=threads, ahead=RUNS_AHEAD * run, name="pictures"):
        if isinstance(loaded, EmbeddedRow):
            yield loaded
            continue
        batch.append(loaded)
        if len(batch) == run:
            yield from _embed_decoded(batch, model)
            batch = []
    if batch:
        yield from _embed_decoded(batch, model)


def embed_texts(rows: Iterable[SourceRow], runtime: Runtime) -> Iterator[EmbeddedRow]:
    """Every row with the vector of its text or its error, not in their order."""
    model = runtime.default_model()
    tower = model.text.get()
    rest = iter(rows)
    while chunk := list(islice(rest, TEXTS_TOGETHER)):
        valid: list[SourceRow] = []
        for row in chunk:
            try:
                parse_text(row.text, runtime.settings.limits)
                valid.append(row)
            except ApiError as error:
                yield failed(row, error)
        if valid:
            texts = [row.text or "" for row in valid]
            vectors = _scaled(tower.embed(texts, background=True).vectors, model)
            for row, vector in zip(valid, vectors, strict=True):
                yield EmbeddedRow(row, row.generation, vector)


def _embed_decoded(batch: Sequence[Decoded], model: Model) -> Iterator[EmbeddedRow]:
    vectors = _scaled(model.image.get().embed([pixels for _, pixels in batch], background=True), model)
    for (row, _), vector in zip(batch, vectors, strict=True):
        yield replace(row, vector=vector)


def _scaled(vectors: np.ndarray, model: Model) -> np.ndarray:
    return normalize_rows(vectors) if model.manifest.normalize else vectors
