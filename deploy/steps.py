"""The steps of a plan: commands as data, printed for a shell (here) or executed (execution.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

Command = tuple[str, ...]

# A value that is looked up while a plan runs appears in its commands as the variable's name between two of
# these characters. No option's value may contain one.
MARK = "\x01"
VARIABLE = re.compile(f"{MARK}([A-Z_]+){MARK}")
# A word of a command that is there only if the variable has a value.
FLAG = re.compile(f"{MARK}([A-Z_]+):\\+(--[a-z-]+){MARK}")

# Columns after which a printed command continues on the next line.
WIDTH = 100


@dataclass(frozen=True)
class Run:
    """Runs a command."""

    command: Command
    # Repeat it if it fails: new accounts and roles take a while to be known everywhere.
    retry: bool = False
    # Printed when it fails; the plan then continues. None: a failure ends the plan.
    failure_note: str | None = None
    # Called instead of the command when the plan is executed.
    action: Callable[[], None] | None = None


@dataclass(frozen=True)
class Lookup:
    """Sets the variable `name` to what a command prints."""

    name: str
    command: Command
    # Whether the command may print nothing; commands that use the variable are then left out.
    optional: bool = False
    # The sentence for a command that fails.
    failure: str | None = None
    # An extended regular expression: the value is what it matches in the output.
    pattern: str = ""


@dataclass(frozen=True)
class Require:
    """Ends the plan with a sentence unless `check` prints something; with `nothing`, if it does."""

    check: Command
    failure: str
    nothing: bool = False


@dataclass(frozen=True)
class Unless:
    """Runs a command unless `check` prints something."""

    check: Command
    command: Command
    retry: bool = False
    # An extended regular expression of what counts in the check's output. None: all of it.
    pattern: str = ""
    # Text that the check's output, if any, must contain, and the sentence that ends the plan otherwise.
    expected: str = ""
    conflict: str = ""
    # The sentence for a check that fails. None: a failure means that it prints nothing.
    check_failure: str | None = None


@dataclass(frozen=True)
class RunIfPasses:
    """Runs a command if `check` succeeds. If it fails, the plan ends with the sentence `failure`."""

    check: Command
    # What the check reads from standard input. It appears neither in messages nor among the processes.
    stdin: str
    command: Command
    failure: str


@dataclass(frozen=True)
class Say:
    """Prints a text on standard output, only when the plan is executed."""

    text: str


@dataclass(frozen=True)
class IfChanged:
    """Executes steps, or prints `note` if `check` prints exactly `value`. A printed plan has no check."""

    check: Command
    value: str
    steps: tuple[Step, ...]
    note: str


Step = Run | Lookup | Require | Unless | RunIfPasses | IfChanged | Say


def variable(name: str) -> str:
    """The placeholder for the variable `name` in commands and values."""
    return f"{MARK}{name}{MARK}"


def flag_if(name: str, flag: str) -> str:
    """A word of a command: `flag` if the variable `name` has a value, otherwise left out."""
    return f"{MARK}{name}:+{flag}{MARK}"


def quote(word: str) -> str:
    """`word` as a shell reads it back, variables as "${NAME}"."""
    if flag := FLAG.fullmatch(word):
        return f"${{{flag[1]}:+{flag[2]}}}"
    # split() with a group returns literal text and variables' names in turn.
    parts = VARIABLE.split(word)
    parts[::2] = map(_quote_literal, parts[::2])
    parts[1::2] = (f'"${{{name}}}"' for name in parts[1::2])
    return "".join(parts) or "''"


def _quote_literal(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_./:=@%,+-]*", text):
        return text
    return "'" + text.replace("'", r"'\''") + "'"


def line(command: Command) -> str:
    """The command as a person pastes it into a shell, long ones on several lines."""
    text, width = "", 0
    for word in map(quote, command):
        if width + len(word) > WIDTH:
            text += " \\\n   "
            width = 4
        text += f" {word}" if text else word
        width += len(word) + 1
    return text


def _filter(pattern: str) -> str:
    """The end of a pipe that prints what `pattern` matches first."""
    return f" | grep -m 1 -oE {quote(pattern)}" if pattern else ""


def printed(plan: Iterable[Step]) -> Iterator[str]:
    """The plan as lines for a shell."""
    for step in plan:
        match step:
            case Run(command):
                yield line(command)
            case Lookup(name, command, pattern=pattern):
                yield f'{name}="$({line(command)}{_filter(pattern)})"'
            case Require(check, failure, nothing):
                test = "-z" if nothing else "-n"
                yield f'[ {test} "$({line(check)})" ] || {{ echo {quote(failure)} >&2; false; }}'
            case Unless(check, command, pattern=pattern):
                yield f'[ -n "$({line(check)} 2>/dev/null{_filter(pattern)})" ] ||\n  {line(command)}'
            case RunIfPasses(check, stdin, command, failure):
                # One statement, so that a shell that goes on after errors does not run the command either.
                yield f"if {line(check)} <<<{quote(stdin)}; then\n  {line(command)}"
                yield f"else\n  echo {quote(failure)} >&2\n  false\nfi"
            case IfChanged(steps=steps):
                yield from printed(steps)
            case Say():
                pass
