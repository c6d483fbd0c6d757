"""Where vectors go: Parquet files, a table of BigQuery, an index in PostgreSQL; and what is there already."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from pyspark.errors import AnalysisException
from pyspark.sql import functions as F  # noqa: N812

from clip_embeddings.bulk.frames import (
    EMBEDDED_COLUMNS,
    INDEXED_COLUMNS,
    embed_frames,
    index_frames,
    indexed_frames,
)
from clip_embeddings.bulk.worker import Provenance, WorkerOptions
from clip_embeddings.errors import ConfigError
from clip_embeddings.postgres_url import SCHEME

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

BIGQUERY = "bigquery://"
# A task's file appears as soon as the task is done, so that a job that is stopped keeps what it has. It is
# safe with one file per task, whose name all attempts share.
COMMITTER = ("mapreduce.fileoutputcommitter.algorithm.version", "2")

FRAME_SCHEMA, INDEXED_SCHEMA = (
    ", ".join(f"{name} {kind}" for name, kind in columns.items())
    for columns in (EMBEDDED_COLUMNS, INDEXED_COLUMNS)
)


@dataclass(frozen=True)
class Output:
    """A place for vectors."""

    # A folder or gs:// path of Parquet files, bigquery://project.dataset.table, or postgresql://...
    url: str = field(repr=False)
    # Where the failed rows go as Parquet files if `url` is an index, which holds none.
    failures: str | None = None

    def __post_init__(self) -> None:
        if self.is_index and not self.failures:
            raise ConfigError("An index holds no failed rows: name a folder for them with --failures.")

    @property
    def is_index(self) -> bool:
        """Whether it is an index in PostgreSQL."""
        return self.url.startswith(f"{SCHEME}://")

    def embed(self, rows: DataFrame, options: WorkerOptions, made_by: Provenance) -> DataFrame:
        """The table of EMBEDDED_COLUMNS for rows of SOURCE_COLUMNS. For an index, it writes the vectors."""
        if self.is_index:
            work = partial(index_frames, options=options, made_by=made_by, url=self.url)
        else:
            work = partial(embed_frames, options=options, made_by=made_by)
        return rows.mapInPandas(work, FRAME_SCHEMA)

    def write(self, table: DataFrame) -> None:
        """Add a table of EMBEDDED_COLUMNS to what is there."""
        if self.url.startswith(BIGQUERY):
            name = self.url.removeprefix(BIGQUERY)
            # By the Storage Write API, which needs no bucket; its rows appear together at the end.
            writer = table.write.format("bigquery").option("table", name).option("writeMethod", "direct")
            writer.mode("append").save()
        elif self.is_index:
            _write_parquet(table.where(F.col("error").isNotNull()), str(self.failures))
        else:
            _write_parquet(table, self.url)

    def present(self, spark: SparkSession, rows: DataFrame) -> DataFrame | None:
        """uri, generation, fingerprint and error of what it holds of `rows`, or of more; None if nothing."""
        if self.is_index:
            # The index has one row per object, so the names of buckets are a short list.
            work = partial(indexed_frames, url=self.url)
            indexed = _buckets(rows).mapInPandas(work, INDEXED_SCHEMA)
            present = indexed.withColumn("error", F.lit(None).cast("string"))
            failures = _read_parquet(spark, str(self.failures))
            return present if failures is None else present.unionByName(_keys(failures))
        if self.url.startswith(BIGQUERY):
            try:
                return _keys(spark.read.format("bigquery").load(self.url.removeprefix(BIGQUERY)))
            except Exception as error:
                # The connector's own exception for a table that is not there yet.
                if "not found" in str(error).lower():
                    return None
                raise
        table = _read_parquet(spark, self.url)
        return None if table is None else _keys(table)


def left_to_do(rows: DataFrame, present: DataFrame | None, fingerprint: str, *, retry: bool) -> DataFrame:
    """The rows that are not present in their generation and with this fingerprint.

    A row that does not say its generation is present in any.

    Args:
        retry: rows that failed count as not present.
    """
    if present is None:
        return rows
    done = present.where(F.col("fingerprint") == fingerprint)
    if retry:
        done = done.where(F.col("error").isNull())
    done = done.select(F.col("uri").alias("done_uri"), F.col("generation").alias("done_generation"))
    same = F.col("generation").isNull() | (F.col("generation").cast("bigint") == F.col("done_generation"))
    return rows.join(done, (F.col("uri") == F.col("done_uri")) & same, "left_anti")


def _write_parquet(table: DataFrame, path: str) -> None:
    table.write.option(*COMMITTER).mode("append").parquet(path)


def _read_parquet(spark: SparkSession, path: str) -> DataFrame | None:
    """The Parquet files in the folder `path`; None if there are none yet."""
    try:
        # By a pattern, because Spark warns at length of a folder that is not there.
        return spark.read.schema(FRAME_SCHEMA).parquet(f"{path.rstrip('/')}/*.parquet")
    except AnalysisException as error:
        if "PATH_NOT_FOUND" in str(error):
            return None
        raise


def _keys(table: DataFrame) -> DataFrame:
    return table.select("uri", "generation", "fingerprint", "error")


def _buckets(rows: DataFrame) -> DataFrame:
    """The distinct buckets of rows, as an index names them."""
    bucket = F.coalesce(
        F.col("bucket"),
        F.when(F.col("uri").startswith("gs://"), F.regexp_extract("uri", "^gs://([^/]+)/", 1)),
        F.when(F.col("uri").startswith("file:///"), F.regexp_extract("uri", "^(file://.*/)[^/]*$", 1)),
    )
    return rows.select(bucket.alias("bucket")).where(F.col("bucket").isNotNull()).distinct()
