"""The labels of photos: embedded when a function is staged, which then needs neither texts nor settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from clip_embeddings.paths import ROOT
from clip_embeddings.setting_names import setting_names
from deploy.errors import DeployError
from deploy.options import CommandLine

# Settings that the staged vectors of labels hold, so that functions do not get them.
WITH_LABELS = ("PHOTO_LABEL_TEMPLATES", "PHOTO_LABEL_THRESHOLD")
# The environment that `make serve` makes.
SERVING_PYTHON = ROOT / ".venv" / "bin" / "python"
NEEDED = "import ftfy, msgspec, numpy, onnxruntime, orjson, regex"


def label_settings(options: CommandLine) -> dict[str, str]:
    """The settings with which labels are embedded; empty if there are no labels.

    Raises:
        DeployError: a setting is of no use without labels.
    """
    given = {name: options.settings[name] for name in WITH_LABELS if name in options.settings}
    if not options["PHOTO_LABELS"]:
        if given:
            raise DeployError(f"--env {next(iter(given))} needs --photo-labels.")
        return {}
    return {"PHOTO_LABELS": options["PHOTO_LABELS"], **given}


def write_labels(function: str, model: Path, settings: Mapping[str, str], target: Path) -> None:
    """Write the vectors of labels by the text tower of the model in the folder `model` to `target`.

    In another process, because deploy.sh runs without packages.

    Raises:
        DeployError: no Python here can run a model, or the model cannot embed labels.
    """
    # Nothing of the caller's environment decides what is staged.
    names = setting_names()
    environment = {name: value for name, value in os.environ.items() if name not in names}
    ended = subprocess.run(
        [_python(), "-B", "-m", "model_cache.embed_labels", str(target)],
        cwd=ROOT,
        env={**environment, **settings, "MODEL": os.path.abspath(model)},
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        reason = ended.stderr.strip().rpartition("\n")[2]
        raise DeployError(f"{function}: {reason or 'the labels could not be embedded.'}")
    # Warnings.
    sys.stderr.write(ended.stderr)


def labels_identity(path: Path) -> str:
    """What identifies a file of labels: all that its vectors are made of, and not their bits."""
    return str(json.loads(path.read_bytes())["identity"])


@cache
def _python() -> str:
    for python in (str(SERVING_PYTHON), sys.executable):
        try:
            probe = subprocess.run([python, "-B", "-c", NEEDED], capture_output=True, check=False)
        except OSError:
            continue
        if probe.returncode == 0:
            return python
    raise DeployError(
        "--photo-labels needs the packages of requirements.txt on this machine, where labels are embedded: "
        "run make .venv/installed."
    )
