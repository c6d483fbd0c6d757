"""Would functions start with these settings? python3 -m deploy.settings NAME=VALUE...

By their own rules; names that are none of theirs may be a library's. Needs only the standard library.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from clip_embeddings.config import ConfigError, load_settings


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status: 1, and a sentence, if a function would not start."""
    try:
        load_settings(dict(argument.split("=", 1) for argument in arguments))
    except ConfigError as error:
        print(f"deploy.sh: --env {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
