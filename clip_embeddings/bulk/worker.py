"""What one worker process of a cluster holds: the settings, and one tower, loaded once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

from clip_embeddings import malloc
from clip_embeddings.bulk.rows import EmbeddedRow, SourceRow
from clip_embeddings.bulk.stream import embed_pictures, embed_texts
from clip_embeddings.config import load_settings
from clip_embeddings.errors import ConfigError
from clip_embeddings.runtime import Runtime, make_runtime

# Bytes that decoding or texts must have. A JPEG of 12 megapixels takes 40 MiB.
LEAST_WORK = 64 * 1024 * 1024


@dataclass(frozen=True)
class WorkerOptions:
    """What is sent to every worker. It is hashable, so that a worker makes its runtime once."""

    tower: Literal["text", "image"]
    # Names and values of settings, as in the environment; MODEL among them.
    settings: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True)
class Provenance:
    """What identifies the vectors of a job."""

    space: str
    fingerprint: str


@cache
def worker_runtime(options: WorkerOptions) -> Runtime:
    """The runtime of this process. Its tower has reproduced its canary on this machine's CPU.

    Raises:
        ConfigError, ModelError: as `open_runtime`; also a tower that does not work on this CPU.
    """
    malloc.tune()
    runtime = open_runtime(options)
    runtime.open_towers()
    return runtime


def open_runtime(options: WorkerOptions) -> Runtime:
    """A runtime that has not loaded its tower yet.

    Raises:
        ConfigError, ModelError: a setting is invalid, or the model's files are missing or damaged.
    """
    # No reply is waited for: a vector that is written is of files that have been verified.
    settings = replace(load_settings(dict(options.settings)), verify_before_serving=True)
    runtime = make_runtime("bulk", (options.tower,), settings)
    stage = runtime.memory.decoding if options.tower == "image" else runtime.memory.parsing
    if stage.width < LEAST_WORK:
        raise ConfigError("MEMORY_LIMIT leaves a worker too little beside the model: allow it more memory.")
    return runtime


def provenance(options: WorkerOptions) -> Provenance:
    """What identifies the vectors that workers with these options make. Raises as `open_runtime`."""
    runtime = open_runtime(options)
    model = runtime.default_model()
    if options.tower == "image":
        return Provenance(model.manifest.space, runtime.image_fingerprint(model))
    return Provenance(model.manifest.space, model.manifest.towers["text"].fingerprint)


def embed_rows(rows: Iterable[SourceRow], options: WorkerOptions) -> Iterator[EmbeddedRow]:
    """Every row with its vector or its error."""
    embed = embed_texts if options.tower == "text" else embed_pictures
    return embed(rows, worker_runtime(options))
