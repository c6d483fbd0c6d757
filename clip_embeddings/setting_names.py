"""The names of the settings, and names that are probably misspelled settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from clip_embeddings.config import load_settings

# Variables that Cloud Run and functions-framework set.
# https://cloud.google.com/run/docs/container-contract#env-vars
PLATFORM_NAMES = frozenset(
    {
        *("PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION"),
        *("CLOUD_RUN_JOB", "CLOUD_RUN_EXECUTION"),
        *("CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_ATTEMPT", "CLOUD_RUN_TASK_COUNT"),
        *("FUNCTION_TARGET", "FUNCTION_SIGNATURE_TYPE", "FUNCTION_SOURCE"),
    }
)
# https://cloud.google.com/run/docs/configuring/services/environment-variables
PLATFORM_PREFIX = "X_GOOGLE_"

# A name within this many edits of a setting's name is taken for a misspelling of it.
MAX_EDITS = 2
# Shorter names, such as PATH, are within two edits of unrelated settings.
MIN_LENGTH = 5


class _RecordingEnvironment(Mapping[str, str]):
    """An empty environment that records the names that are looked up in it."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


@cache
def setting_names() -> frozenset[str]:
    """The name of every setting that `load_settings` reads, except those that the platform sets.

    Found by loading the settings from an empty environment that records lookups, so that no list of names
    must be maintained.
    """
    environment = _RecordingEnvironment()
    load_settings(environment)
    return frozenset(environment.names) - PLATFORM_NAMES


def is_set_by_platform(name: str) -> bool:
    """Whether the platform sets this variable, so that a deployment cannot."""
    return name in PLATFORM_NAMES or name.startswith(PLATFORM_PREFIX)


def nearest_setting(name: str) -> str | None:
    """The setting that `name` probably misspells; None if it is a setting itself or resembles none."""
    if len(name) < MIN_LENGTH or name in setting_names() or is_set_by_platform(name):
        return None
    near = (setting for setting in setting_names() if _may_be_near(name, setting))
    distances = ((edit_distance(name, setting), setting) for setting in near)
    edits, setting = min(distances, default=(MAX_EDITS + 1, ""))
    return setting if edits <= MAX_EDITS else None


def misspelled_settings(names: Iterable[str]) -> dict[str, str]:
    """Those of `names` that probably misspell a setting, each with the setting's name."""
    return {name: setting for name in names if (setting := nearest_setting(name))}


def _may_be_near(a: str, b: str) -> bool:
    """A cheap test before the edit distance. False means more than MAX_EDITS edits; True decides nothing."""
    return abs(len(a) - len(b)) <= MAX_EDITS and len(set(a) ^ set(b)) <= 2 * MAX_EDITS


def edit_distance(a: str, b: str) -> int:
    """The number of letters to insert, delete, replace or swap with their neighbor to turn `a` into `b`.

    https://en.wikipedia.org/wiki/Damerau-Levenshtein_distance#Optimal_string_alignment_distance
    """
    before_last: list[int] = []
    last = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        row = [i]
        for j, target in enumerate(b, 1):
            best = min(last[j] + 1, row[-1] + 1, last[j - 1] + (letter != target))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == target:
                best = min(best, before_last[j - 2] + 1)
            row.append(best)
        before_last, last = last, row
    return last[-1]
