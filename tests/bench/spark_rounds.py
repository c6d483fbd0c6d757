"""Run by the Python of .venv-spark: embeds the rows of NAME.csv for each line NAME that it reads.

    python -m tests.bench.spark_rounds engine|spark image|text MODEL FOLDER SCRATCH

Prints the CPU seconds of each round: of this process and, with `spark`, of Java and of its workers.
"""

from __future__ import annotations

import csv
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from clip_embeddings.bulk.worker import WorkerOptions, worker_runtime
from clip_embeddings.embedding import image_pixels
from clip_embeddings.engine.model import IMAGE_ROWS, normalize_rows

# Texts of one call of the engine, as in a request of the most items.
TEXTS_TOGETHER = 256

# Embeds the rows of a file.
Embed = Callable[[Path], None]


def main() -> None:
    """Run the command line."""
    way, tower, model, source, scratch = sys.argv[1:]
    make = {"engine": _engine, "spark": _spark}[way]
    embed = make("text" if tower == "text" else "image", model, Path(scratch))
    for line in sys.stdin:
        before = _cpu_seconds(os.getpid())
        embed(Path(source) / f"{line.strip()}.csv")
        print(f"cpu {_cpu_seconds(os.getpid()) - before}", flush=True)


def _engine(tower: Literal["text", "image"], model: str, scratch: Path) -> Embed:
    """The engine alone: reads, decodes and runs, one picture and one run after the other."""
    settings = {"MODEL": model, "MODEL_THREADS": "1", "MEMORY_LIMIT": "1Gi"}
    runtime = worker_runtime(WorkerOptions(tower, tuple(sorted(settings.items()))))
    served = runtime.default_model()

    def pictures(source: Path) -> None:
        rows, image = _rows(source), served.image.get()
        for start in range(0, len(rows), IMAGE_ROWS):
            files = (Path(uri.removeprefix("file://")) for uri in rows[start : start + IMAGE_ROWS])
            normalize_rows(image.embed([image_pixels(file.read_bytes(), image, runtime) for file in files]))

    def texts(source: Path) -> None:
        rows = _rows(source)
        for start in range(0, len(rows), TEXTS_TOGETHER):
            normalize_rows(served.text.get().embed(rows[start : start + TEXTS_TOGETHER]).vectors)

    return texts if tower == "text" else pictures


def _spark(tower: Literal["text", "image"], model: str, scratch: Path) -> Embed:
    """The whole job, from the manifest to Parquet files, in one session."""
    from pyspark.sql import SparkSession

    from pipelines.embed_spark import parse, run

    spark = SparkSession.builder.getOrCreate()
    column = ("--texts", "text") if tower == "text" else ()

    def embed(source: Path) -> None:
        output = scratch / "output"
        shutil.rmtree(output, ignore_errors=True)
        arguments = ("--model", model, "--input", str(source), "--output", str(output), *column)
        result = run(parse(arguments), spark)
        assert result.endswith("failed 0"), result

    return embed


def _rows(source: Path) -> list[str]:
    with source.open(encoding="utf-8") as file:
        return [row[0] for row in csv.reader(file)][1:]


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process and of all that it started and that is still there."""
    ticks = 0
    for each_pid in (pid, *_descendants(pid)):
        with suppress(OSError):
            fields = Path(f"/proc/{each_pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _descendants(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from _descendants(int(child))


if __name__ == "__main__":
    main()
