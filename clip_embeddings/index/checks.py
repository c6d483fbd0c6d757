"""What an index can hold: checked before anything is written or compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from clip_embeddings.index.types import MAX_LABEL_CHARS, Entry, EntryError

# Every index stores integers as 64 bits with a sign.
MAX_GENERATION = 2**63 - 1


def check_entry(entry: Entry) -> Entry:
    """The entry with its vector normalized to length 1.

    Raises:
        EntryError: not every index can hold the entry.
    """
    check_generation(entry.generation)
    if not is_text(entry.bucket, entry.name, entry.content_type, entry.space, entry.fingerprint):
        raise EntryError("The object's name or type is not text in Unicode.")
    if not is_text(*entry.metadata, *entry.metadata.values()):
        raise EntryError("The object's metadata are not text in Unicode.")
    labels = check_labels(entry.labels, entry.label_set)
    return replace(entry, vector=normalize(entry.vector), labels=labels)


def check_labels(labels: Mapping[str, float], label_set: str) -> dict[str, float]:
    """Labels with their probabilities as Python's numbers. Raises EntryError if no index can hold them."""
    if not is_text(*labels, label_set):
        raise EntryError("The object's labels are not text in Unicode.")
    if any(len(label) > MAX_LABEL_CHARS for label in labels):
        raise EntryError(f"A label of the object has more than {MAX_LABEL_CHARS} characters.")
    probabilities = {label: float(probability) for label, probability in labels.items()}
    if not all(map(math.isfinite, probabilities.values())):
        raise EntryError("The probabilities of an object's labels must be finite.")
    return probabilities


def normalize(vector: np.ndarray) -> np.ndarray:
    """`vector` as (d,) float32 of length 1. A vector that has this length already keeps its bits.

    Raises:
        EntryError: it is not a list of finite numbers, or is zero.
    """
    values = np.asarray(vector, dtype=np.float32)
    if values.ndim != 1 or not values.size:
        raise EntryError("A vector must be a list of numbers.")
    length = float(np.linalg.norm(values.astype(np.float64)))
    if not np.isfinite(length) or length == 0:
        raise EntryError("A vector must be finite and must not be zero.")
    return values if abs(length - 1) < 1e-5 else (values / np.float64(length)).astype(np.float32)


def check_dimensions(space: str, expected: int, given: int) -> None:
    """Raises EntryError if a vector of `given` dimensions is not one of the space's `expected` dimensions."""
    if expected != given:
        raise EntryError(f"The space {space!r} has vectors of {expected} dimensions; this one has {given}.")


def check_generation(generation: int) -> None:
    """Raises EntryError if no store can have this generation."""
    if not 0 <= generation <= MAX_GENERATION:
        raise EntryError("An object's generation must be a whole number of at most 63 bits.")


def is_text(*values: str) -> bool:
    """Whether all values can be stored as UTF-8. Lone surrogates, as in JSON and file names, cannot."""
    try:
        return all(value.encode() is not None for value in values)
    except UnicodeEncodeError:
        return False
