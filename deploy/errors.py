"""The errors that end deploy.sh."""

from __future__ import annotations

import shlex


class DeployError(Exception):
    """The command cannot be completed. The message is a sentence that says why and what to do."""


class CommandError(Exception):
    """A command failed after it printed its own message. `status` is its exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


def quote_for_message(word: str) -> str:
    """`word` in a message: on one line, and quoted where a shell would need it."""
    return shlex.quote(word) if word.isprintable() else repr(word)
