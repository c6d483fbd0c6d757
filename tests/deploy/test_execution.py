"""Executing a plan, and printing it so that a shell does the same."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deploy.errors import CommandError, DeployError
from deploy.execution import execute
from deploy.steps import (
    IfChanged,
    Lookup,
    Require,
    Run,
    RunIfPasses,
    Say,
    Unless,
    flag_if,
    printed,
    quote,
    variable,
)

ECHO = ("echo", "-n")


@pytest.mark.parametrize(
    "word", ["", "plain-1.5", "two words", "it's", '$HOME `id` \\ "x"', "*", "~", "-n", "ä"]
)
def test_a_quoted_word_is_the_same_word_to_a_shell(word: str) -> None:
    shell = subprocess.run(["bash", "-c", f"printf %s {quote(word)}"], capture_output=True, text=True)

    assert shell.stdout == word


def test_a_printed_plan_does_what_executing_it_does(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = (
        Lookup("PLACE", (*ECHO, "some where")),
        Run(("mkdir", f"{variable('PLACE')}-1")),
        Unless(("ls", f"{variable('PLACE')}-1"), ("touch", f"{variable('PLACE')}-1/made")),
        Unless(("ls", f"{variable('PLACE')}-1"), ("touch", "not-made")),
        Unless(("ls", "missing"), ("touch", "made-too")),
        Lookup("NOTHING", ("true",), optional=True),
        Run(("cp", flag_if("PLACE", "--recursive"), f"{variable('PLACE')}-1", "copy")),
        Run(("touch", "flags", flag_if("NOTHING", "--no-such-flag"))),
        RunIfPasses(("grep", "--quiet", "some where"), variable("PLACE"), ("touch", "passed"), "it did not"),
        Lookup("EMAIL", ("echo", "{'email': 'a-1@b.example'}"), pattern="[a-z0-9-]+@[a-z.]+"),
        Run(("touch", variable("EMAIL"))),
        Unless(("echo", "a@b.example"), ("touch", "not-made"), pattern="[a-z]+@b"),
        Unless(("echo", "an error"), ("touch", "found-no-email"), pattern="[a-z]+@b"),
        Require((*ECHO, "something"), "nothing was printed"),
        Require(("true",), "something was printed", nothing=True),
        IfChanged((*ECHO, "old"), "new", (Run(("touch", "changed")),), "it is unchanged"),
    )
    made = {
        "some where-1",
        "some where-1/made",
        "made-too",
        "copy",
        "copy/made",
        "flags",
        "passed",
        "a-1@b.example",
        "found-no-email",
        "changed",
    }

    execute(plan)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == made
    pasted = tmp_path / "pasted"
    pasted.mkdir()
    subprocess.run(["bash", "-euc", "\n".join(printed(plan))], cwd=pasted, check=True)

    assert {str(path.relative_to(pasted)) for path in pasted.rglob("*")} == made
    assert "+ mkdir 'some where-1'\n" in capfd.readouterr().err


def test_a_command_that_fails_ends_the_plan_with_its_status(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        execute((Run(("bash", "-c", "exit 3")), Run(("touch", str(tmp_path / "made")))))

    assert caught.value.status == 3
    assert list(tmp_path.iterdir()) == []


def test_a_grant_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRY_SECONDS", "0")
    count = f"echo >>{tmp_path}/tries; [ $(wc -l <{tmp_path}/tries) -ge"

    execute((Run(("bash", "-c", f"{count} 3 ]"), retry=True),))
    assert (tmp_path / "tries").read_text() == "\n" * 3
    with pytest.raises(CommandError):
        execute((Run(("bash", "-c", f"{count} 99 ]"), retry=True),))

    assert (tmp_path / "tries").read_text() == "\n" * 9


def test_a_lookup_must_find_something_unless_it_is_optional(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with pytest.raises(DeployError, match="this found nothing: true"):
        execute((Lookup("NAME", ("true",)),))
    with pytest.raises(DeployError, match="this failed: false"):
        execute((Lookup("NAME", ("false",)),))
    with pytest.raises(DeployError, match="a sentence"):
        execute((Lookup("NAME", ("false",), failure="a sentence"),))

    # What would use the value that is missing is left out.
    execute((Lookup("NAME", ("true",), optional=True), Run(("touch", f"{made}{variable('NAME')}"))))

    assert not made.exists()


def test_what_exists_and_is_not_as_expected_ends_the_plan() -> None:
    check = (*ECHO, "theirs")

    execute((Unless(check, ("false",), expected="the"),))
    with pytest.raises(DeployError, match="another's"):
        execute((Unless(check, ("false",), expected="ours", conflict="it is another's"),))
    with pytest.raises(DeployError, match="cannot be read"):
        execute((Unless(("false",), ("true",), check_failure="it cannot be read"),))


@pytest.mark.parametrize(
    "step",
    [
        Require(("true",), "this is the reason: it's so"),
        Require(("false",), "this is the reason: it's so"),
        Require((*ECHO, "something"), "this is the reason: it's so", nothing=True),
    ],
)
def test_what_is_required_ends_the_plan_with_its_sentence(step: Require, tmp_path: Path) -> None:
    plan = (step, Run(("touch", str(tmp_path / "made"))))

    with pytest.raises(DeployError, match=r"^this is the reason: it's so$"):
        execute(plan)
    pasted = subprocess.run(["bash", "-euc", "\n".join(printed(plan))], capture_output=True, text=True)

    assert (pasted.returncode, pasted.stderr) == (1, "this is the reason: it's so\n")
    assert list(tmp_path.iterdir()) == []


def test_a_check_for_nothing_that_fails_does_not_pass() -> None:
    with pytest.raises(DeployError, match=r"^this failed: false$"):
        execute((Require(("false",), "something was printed", nothing=True),))


def test_an_unchanged_function_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def step(value: str) -> IfChanged:
        steps = (Lookup("PLACE", (*ECHO, str(tmp_path / value))), Run(("touch", variable("PLACE"))))
        return IfChanged((*ECHO, "hash-1"), value, steps, f"unchanged {value}")

    execute((step("hash-1"), step("hash-2"), Say("the end")))

    assert [path.name for path in tmp_path.iterdir()] == ["hash-2"]
    assert capfd.readouterr().out == "the end\n"


def test_a_failure_with_a_note_does_not_end_the_plan(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    execute((Run(("false",), failure_note="it was not there"), Run(("touch", str(tmp_path / "made")))))

    assert "it was not there\n" in capfd.readouterr().err
    assert (tmp_path / "made").exists()


def test_a_check_that_fails_ends_the_plan_with_its_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = f"not {variable('SECRET')}"
    plan = (
        Lookup("SECRET", (*ECHO, "hunter2")),
        RunIfPasses(
            ("grep", "--quiet", "other"), secret, ("touch", str(tmp_path / "made")), "it is the other"
        ),
    )

    with pytest.raises(DeployError, match="it is the other"):
        execute(plan)
    # In a shell that goes on after errors, too, what depends on the check does not follow it.
    assert capfd.readouterr().err == "+ grep --quiet other\n"
    shell = ("bash", "-c", "\n".join((*printed(plan), "echo the end")))
    pasted = subprocess.run(shell, capture_output=True, text=True)

    assert (pasted.stdout, pasted.stderr) == ("the end\n", "it is the other\n")
    assert subprocess.run((shell[0], "-e", *shell[1:]), capture_output=True).stdout == b""
    assert list(tmp_path.iterdir()) == []
