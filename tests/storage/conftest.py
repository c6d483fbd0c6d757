"""The same tests for a folder and for Cloud Storage."""

from tests.support.buckets import bucket, gcs, server

__all__ = ["bucket", "gcs", "server"]
