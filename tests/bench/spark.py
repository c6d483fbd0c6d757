"""CPU time of a row in the Spark job, beside that of the engine alone, at the size of ViT-B/32."""

from __future__ import annotations

import csv
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import weights
from tests.bench.measure import Progress
from tests.bench.payloads import WORDS
from tests.support import spark
from tests.support.photographs import crops
from tests.support.serving import ROOT

# The most that a row may cost in the job, as a multiple of what it costs in the engine.
MOST = 1.1
# One executor process with one worker, so that nothing shares the CPU's caches with it.
CLUSTER = "local-cluster[1,1,1024]"
WAYS = ("engine", "spark")
# One of so many rows is among the few.
FEW = 10

# By way, for each round: CPU seconds of the few rows, and of all rows.
Measured = Mapping[str, list[tuple[float, float]]]


def report(progress: Progress, *, quick: bool) -> str:
    """Embed the same rows in both ways by turns, so that a drift of the machine affects both alike.

    In each round, a few rows are embedded, and then many: the difference is what the rows between cost,
    without what a job costs whatever its size. The first round is not counted: the tower is loaded in it, and
    Java compiles what it runs often.
    """
    if reason := spark.missing():
        return f"The Spark job was not measured: {reason}."
    rounds = 2 if quick else 5
    model = str(weights.baked("int8"))
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        sources = {
            "image": _pictures(Path(folder), 450 if quick else 1000),
            "text": _texts(Path(folder), 6_000 if quick else 15_000),
        }
        for tower, (source, count) in sources.items():
            measured = _measure(tower, model, source, rounds, Path(folder), progress)
            lines += _lines(tower, count, measured)
    return "\n".join(
        [f"CPU time of a row, ViT-B/32 int8, one CPU, {rounds} rounds by turns, start-up apart:", *lines]
    )


def _measure(tower: str, model: str, source: Path, rounds: int, folder: Path, progress: Progress) -> Measured:
    """CPU seconds of a few rows and of all rows, for each round, by way."""
    measured: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with ExitStack() as stack:
        processes = {way: stack.enter_context(_started(way, tower, model, source, folder)) for way in WAYS}
        for number in range(rounds + 1):
            # The order alternates between rounds.
            for way in WAYS if number % 2 else reversed(WAYS):
                progress(f"{tower}, {way}, round {number or 'uncounted'}/{rounds}")
                process = processes[way]
                measured[way].append((_seconds(process, "few"), _seconds(process, "all")))
    return measured


def _lines(tower: str, count: int, measured: Measured) -> list[str]:
    between = count - count // FEW
    per_row = {
        way: sum(all_rows - few for few, all_rows in rounds[1:]) / (len(rounds) - 1) / between
        for way, rounds in measured.items()
    }
    ratio = per_row["spark"] / per_row["engine"]
    few, all_rows = (sum(column) / (len(column)) for column in zip(*measured["spark"][1:], strict=True))
    fixed = few - (all_rows - few) / between * (count // FEW)
    first, _ = measured["spark"][0]
    return [
        *(
            f"  {tower}, {way}: {seconds * 1000:.2f} ms, {1 / seconds:.1f} rows a second per CPU"
            for way, seconds in per_row.items()
        ),
        f"  whatever the number of rows: {fixed:.1f} s of CPU for a job, {first:.0f} s for the first one",
        f"{'OK   ' if ratio <= MOST else 'SHORT'} {tower}: the job takes {ratio:.3f} times the CPU of the "
        f"engine (at most {MOST})",
    ]


@contextmanager
def _started(way: str, tower: str, model: str, source: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    with (folder / f"{way}-{tower}.log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(spark.PYTHON),
                "-m",
                "tests.bench.spark_rounds",
                way,
                tower,
                model,
                str(source),
                str(folder),
            ],
            cwd=ROOT,
            env=spark.job_environment(folder, CLUSTER),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        spark.end(process)


def _seconds(process: subprocess.Popen[str], rows: str) -> float:
    """CPU seconds in which `rows`, "few" or "all", are embedded."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{rows}\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("cpu "):
            return float(line.removeprefix("cpu "))
    raise RuntimeError("it ended early")


def _pictures(folder: Path, count: int) -> tuple[Path, int]:
    """A manifest of photos of some 400 pixels, as in the measurement of a backfill."""
    files = crops(count)
    for name, data in files.items():
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return _csv(folder, "uri", [f"file://{folder}/photos/{name}" for name in files]), count


def _texts(folder: Path, count: int) -> tuple[Path, int]:
    """A manifest of short texts, all different."""
    words = [f"a photo of a {WORDS[number % 4]} and {number:,} others" for number in range(count)]
    return _csv(folder, "text", words), count


def _csv(folder: Path, header: str, values: list[str]) -> Path:
    """A folder with the values in all.csv, and the first few of them in few.csv."""
    place = folder / header
    place.mkdir()
    for name, chosen in (("all", values), ("few", values[: len(values) // FEW])):
        with (place / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([[header], *([value] for value in chosen)])
    return place
