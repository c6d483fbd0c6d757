"""The SQL with which BigQuery embeds and searches: definitions for deploy.sh, queries for people.

Remote functions: https://cloud.google.com/bigquery/docs/remote-functions; object tables:
https://cloud.google.com/bigquery/docs/object-tables; vector indexes and VECTOR_SEARCH:
https://cloud.google.com/bigquery/docs/vector-search. Strings are in double quotes, so that the SQL is legible
between the single quotes of a shell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# Tables: the objects of the photos bucket, and their vectors.
PHOTOS, VECTORS = "photos", "photo_vectors"

# Rows of one request. An instance works on --concurrency requests at once, 8 by default: 8 x 64 short texts
# take it 1 s, and 8 x 16 photos of 12 megapixels 10 s to 30 s on one CPU, below the --timeout of 60 s.
BATCH_ROWS = {"text": 64, "image": 16}

# Bytes of the largest photo: the default of MAX_IMAGE_BYTES.
MAX_PHOTO_BYTES = 20 * 1024 * 1024

Mode = Literal["text", "image"]


@dataclass(frozen=True)
class Names:
    """Where everything is in BigQuery. Each part is valid in SQL, between backticks."""

    project: str
    dataset: str
    # Of the data set and the connection, such as us or us-central1.
    location: str
    connection: str

    def quoted(self, name: str) -> str:
        """A table or function of the data set, as SQL names it."""
        return f"`{self.project}.{self.dataset}.{name}`"

    @property
    def quoted_connection(self) -> str:
        """The connection, as SQL names it."""
        return f"`{self.project}.{self.location}.{self.connection}`"


def definitions(names: Names, endpoints: Mapping[Mode, str], bucket: str) -> str:
    """A script that makes the data set, its functions and its tables. It may be repeated.

    Args:
        endpoints: the URLs that embed texts and photos.
        bucket: the bucket with the photos.
    """
    dataset = f"`{names.project}.{names.dataset}`"
    return "\n\n".join(
        [
            f'CREATE SCHEMA IF NOT EXISTS {dataset} OPTIONS (location = "{names.location}");',
            *(_remote_function(names, mode, endpoint) for mode, endpoint in endpoints.items()),
            _to_vector(names),
            f"""\
CREATE OR REPLACE EXTERNAL TABLE {names.quoted(PHOTOS)}
WITH CONNECTION {names.quoted_connection}
OPTIONS (object_metadata = "SIMPLE", uris = ["gs://{bucket}/*"]);""",
            f"""\
CREATE TABLE IF NOT EXISTS {names.quoted(VECTORS)} (
  uri STRING NOT NULL,
  generation INT64 NOT NULL,
  vector ARRAY<FLOAT64>,
  space STRING,
  fingerprint STRING
);""",
        ]
    )


def _remote_function(names: Names, mode: Mode, endpoint: str) -> str:
    """Turns a text, or the URI of a photo, into `{"vector": [f], "space": s, "fingerprint": s}` or NULL."""
    return f"""\
CREATE OR REPLACE FUNCTION {names.quoted(f"embed_{mode}")}(item STRING) RETURNS JSON
REMOTE WITH CONNECTION {names.quoted_connection}
OPTIONS (
  endpoint = "{endpoint}",
  max_batching_rows = {BATCH_ROWS[mode]},
  user_defined_context = [("mode", "{mode}"), ("provenance", "true")]
);"""


def _to_vector(names: Names) -> str:
    """Turns what the remote functions return into numbers; NULL, and null in JSON, give []."""
    return f"""\
CREATE OR REPLACE FUNCTION {names.quoted("to_vector")}(embedding JSON) RETURNS ARRAY<FLOAT64> AS (
  ARRAY(
    SELECT CAST(number AS FLOAT64)
    FROM UNNEST(JSON_VALUE_ARRAY(embedding, "$.vector")) AS number WITH OFFSET AS position
    ORDER BY position
  )
);"""


def queries(names: Names) -> dict[str, str]:
    """The queries that a person runs next, by what they do."""
    photos, vectors = names.quoted(PHOTOS), names.quoted(VECTORS)
    return {
        # A query that fails keeps nothing, and it may take six hours: https://cloud.google.com/bigquery/quotas.
        "Embed the photos that have no vector. Repeat it for new ones, and for those that failed.": f"""\
INSERT INTO {vectors} (uri, generation, vector, space, fingerprint)
SELECT
  uri,
  generation,
  {names.quoted("to_vector")}(embedding),
  JSON_VALUE(embedding, "$.space"),
  JSON_VALUE(embedding, "$.fingerprint")
FROM (
  SELECT photo.uri, photo.generation, {names.quoted("embed_image")}(photo.uri) AS embedding
  FROM {photos} AS photo
  LEFT JOIN {vectors} AS known ON known.uri = photo.uri AND known.generation = photo.generation
  WHERE known.uri IS NULL AND photo.size BETWEEN 1 AND {MAX_PHOTO_BYTES}
    -- All of them. Of millions, one share after the other: MOD(..., 10)) = 0, then 1, up to 9.
    AND ABS(MOD(FARM_FINGERPRINT(photo.uri), 1)) = 0
)
WHERE JSON_TYPE(embedding) = "object";""",
        "Forget the vectors of photos that were removed or replaced.": f"""\
DELETE FROM {vectors} AS known
WHERE NOT EXISTS (
  SELECT 1 FROM {photos} AS photo WHERE photo.uri = known.uri AND photo.generation = known.generation
);""",
        "Which objects have no vector?": f"""\
SELECT photo.uri, photo.content_type, photo.size
FROM {photos} AS photo
LEFT JOIN {vectors} AS known ON known.uri = photo.uri AND known.generation = photo.generation
WHERE known.uri IS NULL;""",
        "Build the vector index, once. BigQuery keeps it up to date.": f"""\
CREATE VECTOR INDEX IF NOT EXISTS {VECTORS}_index ON {vectors} (vector)
STORING (uri, space)
OPTIONS (index_type = "IVF", distance_type = "COSINE");""",
        "Search by text.": f"""\
SELECT base.uri, 1 - distance AS score
FROM VECTOR_SEARCH(
  TABLE {vectors},
  "vector",
  (
    SELECT {names.quoted("to_vector")}(embedding) AS vector, JSON_VALUE(embedding, "$.space") AS space
    FROM (SELECT {names.quoted("embed_text")}("birthday cake") AS embedding)
  ),
  query_column_to_search => "vector",
  top_k => 10,
  distance_type => "COSINE"
)
WHERE base.space = query.space
ORDER BY distance;""",
    }
