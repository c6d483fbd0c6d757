"""Replies of the OpenAPI document's examples: those that the demo model made, kept in a file."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

# Written by tests/support/examples.py. By operation id.
FILE = Path(__file__).with_name("reply_examples.json")
# Numbers of a vector that are shown.
SHOWN = 4
NOTE = f"Replies in the examples are the demo model's, each vector cut after its first {SHOWN} numbers."
# An operation may also be at `/`, and at a path that a setting names.
SUFFIXES = ("_root", "_setting")


def reply_example(operation_id: str) -> Any:
    """The reply to the example of an operation; None if there is none."""
    for suffix in SUFFIXES:
        operation_id = operation_id.removesuffix(suffix)
    return _examples().get(operation_id)


@cache
def _examples() -> dict[str, Any]:
    examples: dict[str, Any] = json.loads(FILE.read_bytes())
    return examples
