"""What is to be embedded, as a table of SOURCE_COLUMNS: a manifest, an inventory report, or a listing."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pyspark.sql import functions as F  # noqa: N812

from clip_embeddings.bulk.frames import SOURCE_COLUMNS, listing_frames
from clip_embeddings.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

# What the name of a manifest ends with. Everything else is a folder or a bucket that is listed.
FORMATS = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
}
LISTING = "listing"
# Columns of an inventory report that tell when a version stopped to be the newest, or was removed.
# https://cloud.google.com/storage/docs/insights/inventory-reports
REMOVED_COLUMNS = ("timedeleted", "softdeletetime")
SOURCE_SCHEMA = ", ".join(f"{name} string" for name in SOURCE_COLUMNS)


def read_input(
    spark: SparkSession, path: str, kind: str | None, uri_column: str, text_column: str | None
) -> DataFrame:
    """The rows of an input, without duplicates.

    Args:
        kind: a value of FORMATS, or LISTING; None for what the name of `path` ends with.
        uri_column, text_column: names of columns, in any case. With the second, rows are texts.

    Raises:
        ConfigError: the columns are not there.
    """
    kind = kind or FORMATS.get(PurePosixPath(path.rstrip("/*")).suffix.lower(), LISTING)
    if kind == LISTING:
        if text_column:
            raise ConfigError("--texts names a column of a manifest: a listing has none.")
        rows = spark.range(1).coalesce(1).mapInPandas(partial(listing_frames, url=path), SOURCE_SCHEMA)
    else:
        table = _read_table(spark, path, kind, uri_column, text_column)
        rows = _texts(table, uri_column, text_column) if text_column else _pictures(table, uri_column)
    return rows.where(F.length(F.trim("uri")) > 0).dropDuplicates(["uri", "generation"])


def _read_table(
    spark: SparkSession, path: str, kind: str, uri_column: str, text_column: str | None
) -> DataFrame:
    """A table with all columns as text, their names in lower case."""
    if kind == "parquet":
        table = spark.read.parquet(path)
    elif kind == "json":
        table = spark.read.json(path)
    else:
        # Quotes are doubled, as in RFC 4180 and in inventory reports. Only texts have line breaks: without
        # them, a large file is read in many parts.
        reader = spark.read.option("escape", '"').option("multiLine", text_column is not None)
        table = reader.csv(path, header=True)
        if len(table.columns) == 1 and "://" in table.columns[0]:
            # A bare list of URIs.
            return reader.csv(path, schema=f"`{uri_column.lower()}` string")
    return table.toDF(*(name.lower() for name in table.columns))


def _pictures(table: DataFrame, uri_column: str) -> DataFrame:
    """Rows of a manifest with a column of URIs, or of an inventory report."""
    columns = set(table.columns)
    if (uri := uri_column.lower()) in columns:
        return table.select(
            *_columns(
                uri=F.col(f"`{uri}`"),
                generation=_optional(table, "generation"),
                content_type=_optional(table, "content_type"),
            )
        )
    if not {"bucket", "name"} <= columns:
        raise ConfigError(
            f"The input has neither a column {uri_column!r} nor the columns bucket and name of an inventory "
            f"report; it has {', '.join(table.columns)}."
        )
    for removed in REMOVED_COLUMNS:
        if removed in columns:
            table = table.where(F.col(removed).isNull())
    return table.select(
        *_columns(
            uri=F.concat(F.lit("gs://"), "bucket", F.lit("/"), "name"),
            generation=_optional(table, "generation"),
            bucket=F.col("bucket"),
            name=F.col("name"),
            content_type=_optional(table, "contenttype"),
        )
    )


def _texts(table: DataFrame, uri_column: str, text_column: str) -> DataFrame:
    """Rows of a manifest with a column of texts. Its URIs, or any other names, identify them if it has any.

    A text without one is identified by a `data:` URL (RFC 2397) that holds it. The generation is a hash of
    the text, so that a text that was changed is embedded again.
    """
    if text_column.lower() not in table.columns:
        raise ConfigError(
            f"The input has no column {text_column!r} of texts; it has {', '.join(table.columns)}."
        )
    text = F.col(f"`{text_column.lower()}`").cast("string")
    table = table.where(text.isNotNull())
    encoded = F.replace(F.url_encode(text), F.lit("+"), F.lit("%20"))
    data_url = F.concat(F.lit("data:text/plain;charset=utf-8,"), encoded)
    # The first 60 bits of the SHA-256.
    generation = F.conv(F.substring(F.sha2(text, 256), 1, 15), 16, 10)
    uri = F.coalesce(_optional(table, uri_column.lower()), data_url)
    return table.select(*_columns(uri=uri, generation=generation, text=text))


def _columns(**given: Column) -> list[Column]:
    """SOURCE_COLUMNS, all as text, those that are not given as null."""
    return [given.get(name, F.lit(None)).cast("string").alias(name) for name in SOURCE_COLUMNS]


def _optional(table: DataFrame, name: str) -> Column:
    """A column of the table, or null if it has none of that name."""
    return F.col(f"`{name}`") if name in table.columns else F.lit(None)
