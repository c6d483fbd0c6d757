"""The command line of baking, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.serving import ROOT, environment


@dataclass(frozen=True)
class Outcome:
    """How a bake ended: exit status, standard output, standard error."""

    status: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line that says what went wrong; everything else on standard error is progress."""
        *progress, last = self.err.splitlines()
        assert all(line.startswith("  ") for line in progress), self.err
        assert last.startswith("bake: ")
        return last


Run = Callable[..., Outcome]


def command_line(*arguments: object, **settings: str) -> Outcome:
    """`python -m model_cache.bake` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "model_cache.bake", *map(str, arguments)],
        cwd=ROOT,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=600,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)
