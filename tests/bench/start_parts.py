"""The parts of a start: from the marks that the process logs, and the interpreter's own list of imports."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from tests.bench.services import Payload, Service, running
from tests.support.serving import environment

# In the order of a start. `open` may run beside the others.
PARTS = ("interpreter", "framework", "libraries", "project", "open", "first reply")
_STARTED = re.compile(r" started ((?:\w+_ms=\d+ ?)+)$", re.MULTILINE)
# A line of `-X importtime`: the microseconds of the module alone and with its imports, and its name.
_IMPORT = re.compile(r"^import time: +(\d+) \| +\d+ \| +([\w.]+)$", re.MULTILINE)
_OURS = ("clip_embeddings", "functions")


@dataclass(frozen=True)
class Part:
    """A stretch of a start, in seconds since the process was started."""

    name: str
    begin: float
    end: float


def logged_stages(log: str) -> dict[str, float]:
    """The stages that a function logs at its first reply, in seconds; empty for what logs none."""
    found = _STARTED.search(log)
    if not found:
        return {}
    pairs = (field.split("_ms=") for field in found[1].split())
    return {stage: int(value) / 1000 for stage, value in pairs}


def parts(seconds: float, interpreter: float, stages: Mapping[str, float], project: float) -> list[Part]:
    """The parts of a start that took `seconds`.

    Args:
        interpreter: seconds that the interpreter takes to start and end.
        stages: what `logged_stages` gives.
        project: the share of the project's own modules in the time of its imports.
    """
    if not stages:
        return [Part("interpreter", 0, interpreter), Part("framework", interpreter, seconds)]
    # The system tells the start of a process to 10 ms; the end is known better.
    late = seconds - stages["replied"]
    at = {stage: max(interpreter, reached + late) for stage, reached in stages.items()}
    framework, imported, forked = at["framework"], at["imported"], at["forked"]
    libraries = framework + (imported - framework) * (1 - project)
    found = [
        Part("interpreter", 0, interpreter),
        Part("framework", interpreter, framework),
        Part("libraries", framework, libraries),
        Part("project", libraries, imported),
        # gunicorn, up to the process that serves.
        Part("framework", imported, forked),
    ]
    opened = [at[stage] for stage in at if stage.endswith("_opened")]
    if opened:
        opening = min(at[stage] for stage in at if stage.endswith("_opening"))
        found.append(Part("open", opening, max(opened)))
    return [*found, Part("first reply", max([forked, *opened]), seconds)]


def interpreter_seconds(service: Service) -> float:
    """Seconds from starting the interpreter of `service` to its end, without a program."""
    started = time.perf_counter()
    subprocess.run(
        [*service.pinned(), service.python, "-c", "import os; os._exit(0)"],
        env=environment(service.settings),
        check=True,
    )
    return time.perf_counter() - started


def project_share(service: Service, payload: Payload) -> float:
    """The share of the project's own modules in the time that importing a function takes."""
    profiled = replace(service, settings={**service.settings, "PYTHONPROFILEIMPORTTIME": "1"})
    shares = []
    with tempfile.TemporaryDirectory() as logs:
        for _ in range(4):
            with running(profiled, Path(logs)) as server:
                server.wait_for_reply(payload)
                shares.append(share_of_project(server.log.read_text()))
    # The first start may have found a cold disk.
    return median(shares[1:])


def share_of_project(log: str) -> float:
    """The same, from what `-X importtime` printed. What is imported after the function does not count."""
    ours = others = 0
    for match in _IMPORT.finditer(log):
        microseconds, module = int(match[1]), match[2]
        if module == "clip_embeddings.marks":
            # What was imported before this is the framework's.
            ours = others = 0
        elif module.partition(".")[0] in _OURS:
            ours += microseconds
        else:
            others += microseconds
        if re.fullmatch(r"functions\.\w+", module):
            break
    return ours / max(1, ours + others)
