"""Reads an `/embed/mixed` reply on standard input and prints how well each text matches each picture.

The numbers are cosines of the two vectors, as percentages. Needs only Python's standard library.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

EXAMPLE = Path(__file__).with_name("example.json")


def table(reply: dict[str, list[list[float]]], texts: list[str]) -> str:
    """One line per picture and one column per text; the best match of each line has an asterisk."""
    lines = [" " * 12 + "".join(f"{text:>18}" for text in texts)]
    for index, picture in enumerate(reply["image_embeddings"], 1):
        cosines = [_dot(picture, text) for text in reply["text_embeddings"]]
        cells = (f"{cosine:.0%}{'*' if cosine == max(cosines) else ' '}" for cosine in cosines)
        lines.append(f"picture {index:<4}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def main() -> int:
    """Print the table; exit status 1 if standard input is not such a reply."""
    try:
        reply = json.load(sys.stdin)
        print(table(reply, json.loads(EXAMPLE.read_text(encoding="utf-8"))["texts"]))
    except (ValueError, KeyError, TypeError):
        print("compare: standard input is not a reply of /embed/mixed.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
