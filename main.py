"""Where functions-framework looks: `--target NAME` serves functions/NAME.py, and only that is imported."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    try:
        return getattr(import_module(f"functions.{name}"), name)
    except ModuleNotFoundError as error:
        if error.name != f"functions.{name}":
            raise
        raise AttributeError(name) from None
