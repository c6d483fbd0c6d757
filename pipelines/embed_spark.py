"""Embeds pictures or texts on a cluster of Spark: a table of URIs or texts in, a table of vectors out.

    python -m pipelines.embed_spark --model MODEL --input INPUT --output OUTPUT

A job that did not finish, or whose input has grown, is continued by starting it again: what is in the output
in the same generation, with the same fingerprint, is left out.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from clip_embeddings.bulk.worker import WorkerOptions, provenance
from clip_embeddings.engine.manifest import ModelError, find_model_folder
from clip_embeddings.errors import ConfigError
from clip_embeddings.paths import MODEL_CACHE
from clip_embeddings.setting_names import nearest_setting, setting_names

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Settings of the driver's environment that do not concern workers, or must not be sent to them.
NOT_SENT = frozenset({"API_KEY", "INDEX_URL", "BUCKET_URL", "JOBS_URL", "MODELS"})
# Memory of one worker process: enough for an int8 ViT-B/32 and pictures of 50 million pixels.
WORKER_MEMORY = "1Gi"
# Rows of a task: a minute or two of pictures, so that a machine that is lost loses little.
TASK_ROWS = 5000
# Rows that Spark hands to a worker at once.
FRAME_ROWS = "1000"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 1 if an option or the model is wrong."""
    options = parse(argv)
    try:
        print(run(options), flush=True)
    except (ConfigError, ModelError) as error:
        print(f"embed_spark: {error}", file=sys.stderr)
        return 1
    return 0


def run(options: argparse.Namespace, spark: SparkSession | None = None) -> str:
    """Do what the command line says; returns a sentence that says how many rows were embedded.

    Raises:
        ConfigError, ModelError: an option or a setting is invalid, or the model is missing or damaged.
    """
    # Imported late, so that --help needs no Spark.
    from pyspark.sql import Observation, SparkSession
    from pyspark.sql import functions as F  # noqa: N812

    from pipelines.inputs import read_input
    from pipelines.outputs import Output, left_to_do

    output = Output(options.output, options.failures)
    spark = spark or SparkSession.builder.appName("clip-embeddings").getOrCreate()
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", FRAME_ROWS)
    worker = WorkerOptions(
        "text" if options.texts else "image",
        worker_settings(options, os.environ, cpus=spark.conf.get("spark.task.cpus", "1")),
    )
    made_by = provenance(worker)
    rows = read_input(spark, options.input, options.format, options.uris, options.texts)
    present = output.present(spark, rows)
    rows = left_to_do(rows, present, made_by.fingerprint, retry=options.retry_failed)
    # On disk, because it is counted, and then embedded: an input is read, or a bucket listed, once.
    rows = rows.persist(_disk_only())
    try:
        count = rows.count()
        if not count:
            return "there is nothing to embed"
        tasks = options.tasks or math.ceil(count / TASK_ROWS)
        counts = Observation("embedded")
        embedded = output.embed(rows.repartition(tasks, "uri", "generation"), worker, made_by).observe(
            counts, F.count(F.lit(1)).alias("rows"), F.count("error").alias("failed")
        )
        output.write(embedded)
        failed = counts.get["failed"]
        return f"embedded {counts.get['rows'] - failed:,}, failed {failed:,}"
    finally:
        rows.unpersist()


def worker_settings(
    options: argparse.Namespace, environment: Mapping[str, str], cpus: str
) -> tuple[tuple[str, str], ...]:
    """The settings of workers: those of this process, and those of --setting.

    Raises:
        ConfigError: --setting names none.
    """
    settings = {
        "MEMORY_LIMIT": WORKER_MEMORY,
        "MODEL_THREADS": cpus,
        **{name: environment[name] for name in setting_names() - NOT_SENT if environment.get(name)},
    }
    for pair in options.setting:
        name, equals, value = pair.partition("=")
        if not equals or name not in setting_names() - NOT_SENT:
            hint = f"; did you mean {near}?" if (near := nearest_setting(name)) else "."
            raise ConfigError(f"--setting {name} is not a setting of workers{hint}")
        settings[name] = value
    if options.model:
        settings["MODEL"] = options.model
    if not settings.get("MODEL"):
        raise ConfigError("name the model with --model: the folder of a baked one, such as ./model.")
    if not settings["MODEL"].startswith("./"):
        # What an archive holds is at the same place in every process's own folder; everything else is where
        # this process finds it.
        settings["MODEL"] = str(find_model_folder(settings["MODEL"], MODEL_CACHE).absolute())
    return tuple(sorted(settings.items()))


def _disk_only() -> object:
    from pyspark import StorageLevel

    return StorageLevel.DISK_ONLY


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line, sys.argv's if it is None."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.embed_spark", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", help="the folder of a baked model, by default MODEL; ./NAME in an archive")
    parser.add_argument(
        "--input",
        required=True,
        help="a manifest of URIs or texts, an inventory report, or a folder or bucket to list",
    )
    parser.add_argument(
        "--format",
        choices=("csv", "parquet", "json", "listing"),
        help="of the input, by default what its name ends with; json has one object per line",
    )
    parser.add_argument("--uris", metavar="COLUMN", default="uri", help="the column of URIs (uri)")
    parser.add_argument("--texts", metavar="COLUMN", help="the column of texts; pictures without it")
    parser.add_argument(
        "--output",
        required=True,
        help="a folder for Parquet files, bigquery://PROJECT.DATASET.TABLE, or postgresql://...",
    )
    parser.add_argument("--failures", metavar="FOLDER", help="where failed rows go if the output is an index")
    parser.add_argument("--retry-failed", action="store_true", help="also embed rows that failed before")
    parser.add_argument("--tasks", type=int, metavar="N", help=f"tasks of the job (one per {TASK_ROWS} rows)")
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the workers, as in docs/configuration.md; may be repeated",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
