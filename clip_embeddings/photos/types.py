"""The changes that bring an index up to date with its bucket, and their outcomes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from clip_embeddings.storage.types import Stat

# The outcome for an object whose entry needs no change.
UP_TO_DATE = "already there"
# The outcome for an object of a manifest that another prefix has.
OUTSIDE = "outside of the prefix"

# Codes of objects that are skipped, with their descriptions for a summary. An object that is not a picture
# does not belong in the index, and one that is gone or was replaced has other events. Every other code is a
# failure, because it concerns a picture that a search should find.
SKIP_REASONS = {
    "image_unsupported": "no picture",
    "object_gone": "gone meanwhile",
    "superseded": "replaced meanwhile",
}


@dataclass(frozen=True)
class ObjectVersion:
    """One generation of an object, which may or may not be a picture."""

    name: str
    stat: Stat


@dataclass(frozen=True)
class Deletion:
    """An entry of the index whose object no longer exists."""

    name: str
    generation: int


@dataclass(frozen=True)
class Retag:
    """An entry whose vector is up to date, and whose labels are of another set than this deployment's."""

    name: str
    generation: int


# A change to make to the index: add or replace an entry, remove one, or replace its labels.
Change = ObjectVersion | Deletion | Retag


class EntryVersion(NamedTuple):
    """What this deployment makes entries with. Those of other values are made anew."""

    # See Entry.
    fingerprint: str
    label_set: str = ""


@dataclass(frozen=True)
class DecodedPhoto:
    """A photo, ready for the model."""

    version: ObjectVersion
    # In bytes, as read.
    size: int
    # (3, h, w) float32.
    pixels: np.ndarray


@dataclass(frozen=True)
class Rejected:
    """An object that cannot be embedded. `code` and `message` are as in ApiError."""

    version: ObjectVersion
    code: str
    message: str
    # Whether another attempt may succeed.
    transient: bool = False


@dataclass
class Report:
    """The outcome of many changes."""

    embedded: int = 0
    # Entries that got other labels, and no other vector.
    tagged: int = 0
    removed: int = 0
    # By code, or UP_TO_DATE.
    skipped: Counter[str] = field(default_factory=Counter)
    # By code.
    failed: Counter[str] = field(default_factory=Counter)
    # The first three names of each code in `failed`.
    examples: dict[str, list[str]] = field(default_factory=dict)

    def count_rejected(self, name: str, code: str) -> None:
        """Count an object that was not embedded."""
        if code in SKIP_REASONS:
            self.skipped[code] += 1
            return
        self.failed[code] += 1
        examples = self.examples.setdefault(code, [])
        if len(examples) < 3:
            examples.append(name)
