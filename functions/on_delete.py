"""CloudEvent function: removes the photo that was just deleted from the bucket from the index."""

import functions_framework
from cloudevents.http import CloudEvent

from clip_embeddings.photos.events import handle_deleted
from clip_embeddings.photos.indexed_bucket import open_indexed_bucket
from clip_embeddings.runtime import exit_on_config_error, start_logging

# It loads no model.
with exit_on_config_error("on_delete"):
    SETTINGS = start_logging()
    INDEXED_BUCKET = open_indexed_bucket(SETTINGS)


@functions_framework.cloud_event
def on_delete(event: CloudEvent) -> None:
    """Log and return where a retry cannot help. Raise where it may: the platform delivers the event again."""
    handle_deleted(event.data, event.get("time"), INDEXED_BUCKET, SETTINGS.photos.max_event_age)
