"""Histories of objects whose events arrive late, repeatedly and in any order."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import strategies as st

from clip_embeddings.index.types import Filter, Index
from tests.support.entries import direction, entry
from tests.support.threads import run_threads


@dataclass(frozen=True)
class History:
    """Changes of some objects, as events deliver them."""

    # The generation of each object that is there in the end.
    remaining: dict[str, int]
    # "upsert" or "delete", the object's name, the generation.
    deliveries: list[tuple[str, str, int]]


# The history of one object: for each generation, whether it was removed after it was written.
REMOVALS = st.lists(st.booleans(), min_size=1, max_size=4)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Histories of up to three objects, with each change one to three times and in any order."""
    remaining, changes = {}, []
    for name in "abc"[: draw(st.integers(1, 3))]:
        for generation, removed in enumerate(draw(REMOVALS), 1):
            changes.append(("upsert", name, generation))
            remaining[name] = generation
            if removed:
                changes.append(("delete", name, generation))
                del remaining[name]
    deliveries = [change for change in changes for _ in range(draw(st.integers(1, 3)))]
    return History(remaining, draw(st.permutations(deliveries)))


def check_history(index: Index, history: History, threads: int = 1) -> None:
    """Deliver a history's changes, by several threads at once if there are, and check what remains."""
    folder = f"{uuid.uuid4().hex}/"

    def deliver(changes: Sequence[tuple[str, str, int]]) -> None:
        for kind, name, generation in changes:
            if kind == "upsert":
                index.upsert([entry(folder + name, generation)])
            else:
                index.delete("photos", folder + name, generation)

    if threads == 1:
        deliver(history.deliveries)
    else:
        run_threads([partial(deliver, history.deliveries[number::threads]) for number in range(threads)])

    expected = {folder + name: generation for name, generation in history.remaining.items()}
    assert {name: generation for name, generation, *_ in index.generations("photos", folder)} == expected
    hits = index.query(direction("q"), "s", 10, Filter(prefix=folder)).hits
    assert {hit.entry.name: hit.entry.generation for hit in hits} == expected
    for hit in hits:
        vector = direction(f"{hit.entry.name} {hit.entry.generation}")
        assert hit.score == pytest.approx(float(direction("q") @ vector), abs=1e-5)
