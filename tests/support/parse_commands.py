"""Run by gcloud's own Python: whether gcloud's parser takes each command of a list.

Reads a JSON list of argument lists, writes a JSON list of exit statuses. 2 means that the parser refused.
Without credentials whatever it takes ends with 1 before any request is sent, or with 0 if it needs none.
"""

import contextlib
import io
import json
import sys

sys.path[:0] = [f"{sys.argv[1]}/lib", f"{sys.argv[1]}/lib/third_party"]

from googlecloudsdk import gcloud_main  # type: ignore[import-not-found] # noqa: E402


def main() -> None:
    """Parse everything on standard input."""
    cli = gcloud_main.CreateCLI([])
    statuses = []
    for arguments in json.load(sys.stdin):
        status = 0
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                cli.Execute(arguments)
            except SystemExit as end:
                status = int(end.code or 0)
        statuses.append(status)
    json.dump(statuses, sys.stdout)


main()
