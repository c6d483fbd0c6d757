"""Fixtures: a small model, its artifact baked once, and the command line of baking in this process."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_cache import bake
from tests.support.baking.command import Outcome, Run, command_line
from tests.support.baking.tiny import Tiny, make


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs the command line in this process, which is faster."""
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
    """A small CLIP of the standard architecture."""
    return make(tmp_path_factory.mktemp("tiny"), "tiny")


@pytest.fixture(scope="session")
def cli_bake(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """The outcome of baking `tiny` as float32 in a process of its own, and the folder."""
    folder = tmp_path_factory.mktemp("baked") / "deep" / "tiny"
    return command_line(*tiny.arguments, "--precision", "fp32", "--out", folder), folder


@pytest.fixture(scope="session")
def baked(cli_bake: tuple[Outcome, Path]) -> Path:
    """The artifact of `tiny`. Tests must not write into it."""
    outcome, folder = cli_bake
    assert outcome.status == 0, outcome.err
    return folder
