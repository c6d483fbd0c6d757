"""The cost of serving each model of the catalogue: size, loading, a text, a photo, memory.

The weights are random. They cost as much as the published weights of the same architecture.
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
from tests.bench import payloads, services
from tests.bench.measure import Progress, block, stages
from tests.bench.weights import BUILD, state
from tests.support.serving import ROOT


@dataclass(frozen=True)
class Cost:
    """The cost of one tower in one precision. MB are 10^6 bytes.

    `cosine`: the lowest cosine to PyTorch. `mixed`: CPU time of 64 texts of mixed lengths in one request,
    divided by that of the same texts in eight requests sorted by length.
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
    # The memory limit that deploy.sh sets on Cloud Run.
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


def measure(names: Sequence[str], count: int, progress: Progress) -> str:
    """The table of `names`, each tower measured alone in the function that serves it."""
    header: tuple[str, ...] = (
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
    rows = [header]
    for name in names:
        entry = catalogue.find(name)
        if entry is None:
            known = ", ".join(known_entry.name for known_entry in catalogue.CATALOGUE)
            sys.exit(f"{name} is not in the catalogue; there is {known}.")
        rows += [(entry.name, *cost.cells()) for cost in _costs(entry, count, progress)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _costs(entry: catalogue.CatalogueEntry, count: int, progress: Progress) -> list[Cost]:
    folders = _baked(entry, progress)
    costs = []
    for tower, payload in (("text", payloads.texts()), ("image", payloads.upload(payloads.small_jpeg()))):
        for precision, folder in folders.items():
            manifest = json.loads((folder / "manifest.json").read_text())
            if tower not in manifest["towers"]:
                continue
            progress(f"{entry.name}: {tower}, {precision}")
            described = manifest["towers"][tower]
            service = services.function(f"embed_{tower}", f"embed_{tower}", MODEL=str(folder))
            with tempfile.TemporaryDirectory() as logs, services.running(service, Path(logs)) as server:
                load = _first_load(server, payload)
                block(server, payload, 3)
                samples = block(server, payload, count)
                rss = server.worker_rss()
                size = sum(file["bytes"] for file in described["files"])
                function = find_function(f"embed_{tower}")
                costs.append(
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
                        memory=memory_setting(function, [size], cpus=1),
                    )
                )
    return costs


def _mixed(server: services.Running, count: int) -> float:
    """The ratio `Cost.mixed`."""
    whole, parts = payloads.mixed()
    block(server, whole, 1)
    together = block(server, whole, count).mean_cpu
    return together / sum(block(server, part, count).mean_cpu for part in parts)


def _first_load(server: services.Running, payload: services.Payload) -> float:
    """Milliseconds that the first request waits for the tower to load."""
    server.wait_until_listening()
    return stages(server, payload, 1)["load"]


def _baked(entry: catalogue.CatalogueEntry, progress: Progress) -> dict[str, Path]:
    """The folders of the model by precision, kept for the next run until the code of bake changes."""
    folders = {precision: BUILD / "models" / f"{entry.name}-{precision}" for precision in ("int8", "fp32")}
    stamp = BUILD / "models" / f"{entry.name}.stamp"
    if not stamp.exists() or stamp.read_text() != state():
        from tests.support.baking.full_size import publish
        from tests.support.baking.hub import serving_hub

        progress(f"{entry.name}: making random weights")
        with tempfile.TemporaryDirectory() as work:
            published = publish(entry, Path(work))
            with serving_hub(published.files) as hub:
                for precision, folder in folders.items():
                    progress(f"{entry.name}: baking {precision}")
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
