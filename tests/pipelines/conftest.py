"""The fixtures of buckets."""

from tests.support.buckets import gcs, server

__all__ = ["gcs", "server"]
