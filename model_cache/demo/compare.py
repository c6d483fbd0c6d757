"""Read an `/embed/mixed` reply on standard input and print how well each text fits each picture.

Fit is the cosine of the two vectors, as a percentage. Needs nothing but Python.
"""

import json
import sys
from pathlib import Path

EXAMPLE = Path(__file__).with_name("example.json")


def table(reply: dict[str, list[list[float]]], texts: list[str]) -> str:
    """One line per picture, one column per text, the best fit of each line marked."""
    lines = [" " * 12 + "".join(f"{text:>18}" for text in texts)]
    for index, picture in enumerate(reply["image_embeddings"], 1):
        fits = [sum(a * b for a, b in zip(picture, text, strict=True)) for text in reply["text_embeddings"]]
        cells = (f"{fit:.0%}{'*' if fit == max(fits) else ' '}" for fit in fits)
        lines.append(f"picture {index:<4}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


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
