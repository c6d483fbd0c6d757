"""The search for near-duplicates among many vectors: seconds, CPU time and memory of the command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.bench.index import BATCH, DIMENSIONS, clustered_batches
from tests.support.entries import entry
from tests.support.indexes import opened_index
from tests.support.serving import ROOT, environment

# What the acceptance is, for 100,000 vectors on two CPUs.
MOST_SECONDS = 60.0
ROWS = 100_000
# Of the vectors, each so many-th is a copy of an earlier one, and one burst has so many copies.
COPY_EVERY, BURST = 20, 1000
# How far a copy is from its original: a cosine of about 0.975.
NOISE = 0.01


def report(rows: int | None = None, *, quick: bool) -> str:
    """Fill an index in SQLite with `rows` or 100,000 vectors, and run the command: a few lines."""
    rows = rows or (10_000 if quick else ROWS)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite://{folder}/photos.sqlite"
        _fill(url, rows)
        # The bucket need not exist.
        settings = {"BUCKET_URL": "gs://photos", "INDEX_URL": url, "MODEL": "demo"}
        output = Path(folder, "output")
        started = time.perf_counter()
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "functions.duplicates"],
                cwd=ROOT,
                env=environment(settings),
                stdout=file,
            )
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        text = output.read_text().strip()
    if process.returncode:
        return f"the command failed with status {process.returncode}"
    cpu = usage.ru_utime + usage.ru_stime
    lines = [
        re.sub(r" \(.*\)$", "", text),
        f"{rows:,} x {DIMENSIONS}: {seconds:.1f} s, {cpu:.1f} s of CPU time, at most "
        f"{usage.ru_maxrss / 1024:,.0f} MB",
    ]
    if rows == ROWS:
        # Where nobody else uses the CPUs, at most the CPU time passes.
        verdict = "OK   " if min(seconds, cpu) < MOST_SECONDS else "SHORT"
        lines.append(f"{verdict} under {MOST_SECONDS:g} s")
    return "\n".join(lines)


def _fill(url: str, rows: int) -> None:
    """Clusters, each batch with a few copies from the one before; and one burst of copies of a picture."""
    rng = np.random.default_rng(7)
    copies = BATCH // COPY_EVERY
    before = burst = np.empty((0, DIMENSIONS), np.float32)
    with opened_index(url) as index:
        for first_row, vectors in clustered_batches(rows, BATCH):
            if first_row == 0:
                burst = vectors[:1]
            elif first_row < BATCH + BURST:
                vectors = burst + _noise(rng, len(vectors))
            else:
                vectors = np.concatenate((vectors[copies:], before[:copies] + _noise(rng, copies)))
            before = vectors
            index.upsert(
                [
                    entry(f"{first_row + row:07}", vector=vector, size=rows - first_row - row)
                    for row, vector in enumerate(vectors)
                ]
            )


def _noise(rng: np.random.Generator, rows: int) -> np.ndarray:
    return NOISE * rng.standard_normal((rows, DIMENSIONS), np.float32)
