"""What each script beside this one sends, and how it prints what came back: one line of JSON.

The environment says where the gateway is (URL), its key and model (KEY, MODEL), and what to embed (TEXTS, a
JSON list, and PICTURES, a JSON list of files).
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

URL = os.environ["URL"]
KEY = os.environ["KEY"]
MODEL = os.environ["MODEL"]
TEXTS: list[str] = json.loads(os.environ["TEXTS"])
PICTURES = [Path(name).read_bytes() for name in json.loads(os.environ["PICTURES"])]
DATA_URIS = ["data:image/png;base64," + b64encode(picture).decode() for picture in PICTURES]

# More items than any protocol allows by default.
MANY = 2500
CASES = {
    "wrong_key": {"key": "not-the-key-of-this-gateway"},
    "wrong_model": {"model": "no-such-model"},
    "too_many": {"texts": ["a cat"] * MANY},
}

Vectors = Iterable[Sequence[float]]


def report(
    distribution: str,
    embed: Callable[..., Vectors],
    pictures: Vectors | None = None,
    cases: Sequence[str] = tuple(CASES),
) -> None:
    """Print the version of `distribution`, the vectors of the texts and pictures, and the errors of `cases`.

    `embed` takes the texts, and the keyword arguments `key` and `model`.
    """
    print(
        json.dumps(
            {
                "version": version(distribution),
                "texts": _plain(embed(TEXTS)),
                "pictures": None if pictures is None else _plain(pictures),
                "errors": {case: _error(embed, case) for case in cases},
            }
        )
    )


def _plain(vectors: Vectors) -> list[list[float]]:
    return [[float(number) for number in vector] for vector in vectors]


def _error(embed: Callable[..., Vectors], case: str) -> list[str]:
    """The class and the message of what `embed` raises."""
    try:
        embed(**({"texts": TEXTS} | CASES[case]))
    except Exception as error:
        raised = type(error)
        return [f"{raised.__module__.partition('.')[0]}.{raised.__name__}", str(error)]
    return ["nothing", ""]
