"""What each model of the catalogue costs to serve: files, loading, a text, a photo, memory, side by side.

Random weights of the real architectures: they cost what the published ones cost.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_embeddings.functions import find_function
from deploy.sizing import memory_setting
from model_cache.baking import catalogue
from tests.bench import calls, services
from tests.bench.measure import Say, block, stages
from tests.bench.weights import BUILD, state
from tests.support.serving import ROOT


@dataclass(frozen=True)
class Cost:
    """One tower in one precision. `cosine`: the lowest to PyTorch. MB are 10^6 bytes.

    `mixed`: the CPU of 64 texts of mixed lengths in one request, over that of eight requests by length.
    """

    tower: str
    precision: str
    megabytes: float
    cosine: float
    load_ms: float
    ms: float
    cpu_ms: float
    rss: float
    mixed: float | None
    # The setting of Cloud Run that deploy.sh takes.
    memory: str

    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        figures = (
            f"{self.megabytes:.0f}",
            f"{self.cosine:.5f}",
            f"{self.load_ms:.0f}",
            f"{self.ms:.1f}",
            f"{self.cpu_ms:.1f}",
            f"{self.rss:.0f}",
            f"{self.mixed:.2f}" if self.mixed else "",
        )
        return self.tower, self.precision, *figures, self.memory


def measure(names: Sequence[str], count: int, say: Say) -> str:
    """The table of `names`, each tower measured alone in the function that serves it."""
    head = (
        "model",
        "tower",
        "precision",
        "files MB",
        "cosine",
        "load ms",
        "ms",
        "CPU ms",
        "RSS MB",
        "64 mixed",
        "memory",
    )
    rows = [head]
    for name in names:
        entry = catalogue.find(name)
        if entry is None:
            known = ", ".join(one.name for one in catalogue.CATALOGUE)
            sys.exit(f"{name} is not in the catalogue; there is {known}.")
        rows += [(entry.name, *cost.cells()) for cost in _costs(entry, count, say)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _costs(entry: catalogue.Entry, count: int, say: Say) -> list[Cost]:
    folders = _baked(entry, say)
    found = []
    for tower, call in (("text", calls.texts()), ("image", calls.upload(calls.small_jpeg()))):
        for precision, folder in folders.items():
            manifest = json.loads((folder / "manifest.json").read_text())
            if tower not in manifest["towers"]:
                continue
            say(f"{entry.name}: {tower}, {precision}")
            described = manifest["towers"][tower]
            service = services.function(f"embed_{tower}", f"embed_{tower}", MODEL=str(folder))
            with tempfile.TemporaryDirectory() as logs, services.running(service, Path(logs)) as server:
                load = _first_load(server, call)
                block(server, call, 3)
                samples = block(server, call, count)
                rss = server.worker_rss()
                size = sum(file["bytes"] for file in described["files"])
                function = find_function(f"embed_{tower}")
                found.append(
                    Cost(
                        tower=tower,
                        precision=precision,
                        megabytes=size / 1e6,
                        cosine=described["parity"][precision]["min_cosine"],
                        load_ms=load,
                        ms=samples.median * 1000,
                        cpu_ms=samples.mean_cpu * 1000,
                        rss=rss,
                        mixed=_mixed(server, count // 5) if tower == "text" else None,
                        memory=memory_setting(function, [size]),
                    )
                )
    return found


def _mixed(server: services.Running, count: int) -> float:
    whole, parts = calls.mixed()
    block(server, whole, 1)
    together = block(server, whole, count).mean_cpu
    return together / sum(block(server, part, count).mean_cpu for part in parts)


def _first_load(server: services.Running, call: services.Call) -> float:
    """Milliseconds that the first request waits for the tower to load."""
    server.listening()
    return stages(server, call, 1)["load"]


def _baked(entry: catalogue.Entry, say: Say) -> dict[str, Path]:
    """The model in both precisions, kept for the next run while the code of bake is the same."""
    folders = {precision: BUILD / "models" / f"{entry.name}-{precision}" for precision in ("int8", "fp32")}
    stamp = BUILD / "models" / f"{entry.name}.stamp"
    if not stamp.exists() or stamp.read_text() != state():
        from tests.support.baking.full_size import publish
        from tests.support.baking.hub import serving_hub

        say(f"{entry.name}: making random weights")
        with tempfile.TemporaryDirectory() as work:
            published = publish(entry, Path(work))
            with serving_hub(published.files) as hub:
                for precision, folder in folders.items():
                    say(f"{entry.name}: baking {precision}")
                    subprocess.run(
                        [
                            *(sys.executable, "-m", "model_cache.bake", entry.name),
                            *("--precision", precision, "--out", str(folder)),
                        ],
                        cwd=ROOT,
                        env=os.environ | hub.environment(Path(work) / "cache"),
                        stdout=subprocess.DEVNULL,
                        check=True,
                    )
        stamp.write_text(state())
    return folders
