"""Executes a plan, one step after the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping

from deploy.errors import CommandError, DeployError
from deploy.steps import (
    FLAG,
    VARIABLE,
    Command,
    IfChanged,
    Lookup,
    Require,
    Run,
    RunIfPasses,
    Say,
    Step,
    Unless,
    line,
)

# The most often that a command with `retry` is run.
ATTEMPTS = 6


def execute(plan: Iterable[Step]) -> None:
    """Execute every step of `plan`.

    Raises:
        CommandError: a command failed.
        DeployError: a lookup found nothing, something that exists is in the way, or a check failed.
    """
    _execute(plan, {})


def _execute(plan: Iterable[Step], values: dict[str, str]) -> None:
    """Execute steps with the variables of those before them, and add theirs to `values`."""
    for step in plan:
        match step:
            case Run():
                _run_step(step, values)
            case Lookup():
                values[step.name] = _look_up(step, values)
            case Require():
                _require(step, values)
            case Unless():
                _run_unless(step, values)
            case RunIfPasses():
                _run_if_passes(step, values)
            case IfChanged():
                _execute_if_changed(step, values)
            case Say(text):
                print(resolve(text, values), flush=True)


def resolve(text: str, values: Mapping[str, str]) -> str:
    """`text` with the values of its variables."""
    return VARIABLE.sub(lambda match: values[match[1]], text)


def output(command: Command, *, quiet: bool = False) -> str | None:
    """What a command prints, without trailing line ends; None if it fails. `quiet` drops its messages."""
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL if quiet else None, text=True
    )
    return None if ended.returncode else ended.stdout.rstrip("\n")


def say(text: str) -> None:
    """Print a message for the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


def run(command: Command, *, retry: bool = False) -> None:
    """Print and run a command; with `retry`, up to ATTEMPTS times. Raises CommandError if no run succeeds."""
    for attempt in range(1, ATTEMPTS + 1):
        say(f"+ {line(command)}")
        status = subprocess.run(command).returncode
        if status == 0:
            return
        if not retry or attempt == ATTEMPTS:
            # A negative status is the negated number of a signal, which shells report as 128 plus the number.
            raise CommandError(status if status > 0 else 128 - status)
        say(f"  not yet (try {attempt} of {ATTEMPTS}); again in {retry_seconds()} seconds")
        time.sleep(retry_seconds())


def retry_seconds() -> int:
    """The pause before something is tried again; RETRY_SECONDS overrides it."""
    return int(os.environ.get("RETRY_SECONDS", "") or 10)


def _resolve(command: Command, values: Mapping[str, str]) -> Command:
    words = []
    for word in command:
        if flag := FLAG.fullmatch(word):
            words += [flag[2]] if values[flag[1]] else []
        else:
            words.append(resolve(word, values))
    return tuple(words)


def _run_step(step: Run, values: Mapping[str, str]) -> None:
    if step.action:
        step.action()
        return
    if any(values[name] == "" for word in step.command for name in VARIABLE.findall(word)):
        return
    try:
        run(_resolve(step.command, values), retry=step.retry)
    except CommandError:
        if step.failure_note is None:
            raise
        say(step.failure_note)


def _look_up(step: Lookup, values: Mapping[str, str]) -> str:
    command = _resolve(step.command, values)
    value = output(command)
    if value is None:
        raise DeployError(step.failure or f"this failed: {line(command)}")
    value = _matched(step.pattern, value)
    if not value and not step.optional:
        raise DeployError(f"this found nothing: {line(command)}")
    return value


def _matched(pattern: str, text: str) -> str:
    """The first match of `pattern` in `text`, empty if there is none; without a pattern, all of the text."""
    if not pattern:
        return text
    match = re.search(pattern, text)
    return match[0] if match else ""


def _require(step: Require, values: Mapping[str, str]) -> None:
    command = _resolve(step.check, values)
    printed = output(command)
    if printed is None and step.nothing:
        raise DeployError(f"this failed: {line(command)}")
    if bool(printed) == step.nothing:
        raise DeployError(resolve(step.failure, values))


def _run_unless(step: Unless, values: Mapping[str, str]) -> None:
    printed = output(_resolve(step.check, values), quiet=step.check_failure is None)
    if printed is None and step.check_failure:
        raise DeployError(step.check_failure)
    if not printed or not _matched(step.pattern, printed):
        run(_resolve(step.command, values), retry=step.retry)
    elif step.expected not in printed:
        raise DeployError(step.conflict)


def _run_if_passes(step: RunIfPasses, values: Mapping[str, str]) -> None:
    check = _resolve(step.check, values)
    say(f"+ {line(check)}")
    if subprocess.run(check, input=resolve(step.stdin, values), text=True).returncode:
        raise DeployError(resolve(step.failure, values))
    run(_resolve(step.command, values))


def _execute_if_changed(step: IfChanged, values: dict[str, str]) -> None:
    if output(_resolve(step.check, values), quiet=True) == resolve(step.value, values):
        say(resolve(step.note, values))
    else:
        _execute(step.steps, values)
