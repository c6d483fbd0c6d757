"""Reads the gs:// objects that requests name, only from buckets on the deployment's allow-list."""

from __future__ import annotations

from collections.abc import Callable

from clip_embeddings.config import Settings
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import GcsObject
from clip_embeddings.logs import logger
from clip_embeddings.storage.factory import open_cloud_bucket
from clip_embeddings.storage.types import Bucket, NotFoundError, StorageError, TooLargeError, TransientError

# Until a bucket that does not answer should be asked again.
RETRY_SECONDS = 5


def read_object(source: GcsObject, settings: Settings, reserve: Callable[[], int]) -> bytes:
    """The bytes of the newest generation of an object.

    Args:
        reserve: called before the object is read; returns how many bytes to read at most.

    Raises:
        ApiError: 400 `bucket_forbidden`; otherwise as `read_generation`.
    """
    if source.bucket not in settings.buckets:
        raise ApiError(
            400, "bucket_forbidden", "This bucket is not on the deployment's list (ALLOWED_BUCKETS)."
        )
    return read_generation(open_cloud_bucket(source.bucket), source.name, None, reserve())[0]


def read_generation(bucket: Bucket, name: str, generation: int | None, max_bytes: int) -> tuple[bytes, int]:
    """The bytes of an object and their generation: the newest, or the requested one.

    Raises:
        ApiError: 413 `image_too_large`, 422 `object_not_found` or `fetch_failed`, with `retry_after` if the
            bucket does not answer now.
    """
    try:
        return bucket.read(name, generation=generation, max_bytes=max_bytes)
    except NotFoundError:
        raise ApiError(422, "object_not_found", "There is no such object in the bucket.") from None
    except TooLargeError:
        raise ApiError(413, "image_too_large", f"The image has more than {max_bytes:,} bytes.") from None
    except TransientError:
        message = "The bucket does not answer now; try again."
        raise ApiError(422, "fetch_failed", message, retry_after=RETRY_SECONDS) from None
    except StorageError as error:
        logger.error("an object cannot be read: %s", error)
        raise ApiError(422, "fetch_failed", "The object cannot be read by this deployment.") from None
