"""The same tests for a folder and for Cloud Storage, and deployments of both."""

from tests.support.backfills import cloud, folder
from tests.support.buckets import bucket, gcs, server

__all__ = ["bucket", "cloud", "folder", "gcs", "server"]
