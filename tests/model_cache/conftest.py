"""A small model, baked once by the command line, and a way to run that command line in this process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from model_cache import bake
from tests.model_cache.tiny import Tiny, make
from tests.serving import ROOT, environment


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


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """The command line without a process of its own."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def main(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = bake.main([str(argument) for argument in arguments])
        return Outcome(status, *capsys.readouterr())

    yield main
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A model of the plain kind."""
    return make(tmp_path_factory.mktemp("tiny"), "tiny")


@pytest.fixture(scope="session")
def cli_bake(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """`tiny` baked as float32 by a process of its own, and its folder."""
    folder = tmp_path_factory.mktemp("baked") / "deep" / "tiny"
    return command_line(*tiny.arguments, "--precision", "fp32", "--out", folder), folder


@pytest.fixture(scope="session")
def baked(cli_bake: tuple[Outcome, Path]) -> Path:
    """The folder of `tiny`, baked; do not write into it."""
    outcome, folder = cli_bake
    assert outcome.status == 0, outcome.err
    return folder
