"""`python -m deploy FOLDER [options] COMMAND...`, as deploy.sh calls it from FOLDER."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from clip_embeddings.engine.manifest import ModelError
from deploy.errors import CommandError, DeployError
from deploy.help import help_text
from deploy.options import parse
from deploy.settings import read_settings


def main(folder: str, arguments: Sequence[str]) -> int:
    """Run the command line as if called in `folder`; returns its exit status."""
    try:
        options = parse(arguments, Path(folder))
        if options is None:
            print(help_text(), end="")
            return 0
        read_settings(options.settings)
        if not options.positional:
            print(help_text(), end="", file=sys.stderr)
            return 2
        # Imported late, because printing the help or reporting a wrong option needs none of it.
        from deploy.commands import run_command

        run_command(options)
    except (DeployError, ModelError, OSError) as error:
        print(f"deploy.sh: {error}", file=sys.stderr)
        return 1
    except CommandError as error:
        return error.status
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    # A plan may be piped into a command that ends early, such as head.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
