"""gcloud's own command line parser, as a check of commands that cannot run without a cloud."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.deploy_script import gcloud_environment
from tests.support.serving import ROOT

# Parsed beside the calls, to see that the parser still refuses something.
WRONG = ("run", "deploy", "x", "--no-such-flag")


def refused_calls(calls: Sequence[Sequence[str]], folder: Path) -> list[Sequence[str]]:
    """Those of `calls`, given without the word gcloud, that the parser does not take. All run in one process.

    The parser answers 2 to a call that it refuses. Without credentials, whatever it takes ends with 1 before
    any request is sent, or with 0 if it needs none. `folder` holds gcloud's settings.
    """
    env = gcloud_environment(folder)
    # Nothing gets past the parser: no name is looked up outside of this machine.
    env |= {
        "CLOUDSDK_PROXY_TYPE": "http",
        "CLOUDSDK_PROXY_ADDRESS": "127.0.0.1",
        "CLOUDSDK_PROXY_PORT": "9",
    }
    info = ["gcloud", "info", "--format=value(installation.sdk_root,basic.python_location)"]
    shown = subprocess.run(info, env=env, capture_output=True, text=True, check=True, timeout=60).stdout
    root, python = shown.split()
    ended = subprocess.run(
        [python, "-S", str(ROOT / "tests/support/parse_commands.py"), root],
        input=json.dumps([WRONG, *calls]),
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    first, *statuses = json.loads(ended.stdout)
    assert first == 2
    return [call for call, status in zip(calls, statuses, strict=True) if status not in (0, 1)]
