"""CloudEvent function: takes the photo that was just removed from the bucket out of the index."""

import functions_framework
from cloudevents.http import CloudEvent

from clip_embeddings.photos.collection import open_indexed_bucket
from clip_embeddings.photos.events import deleted
from clip_embeddings.runtime import exit_on_config_error, start_logging

# No model: it needs none.
with exit_on_config_error("on_delete"):
    SETTINGS = start_logging()
    COLLECTION = open_indexed_bucket(SETTINGS)


@functions_framework.cloud_event
def on_delete(event: CloudEvent) -> None:
    """Raises where a retry may help: the platform delivers again."""
    deleted(event.data, event.get("time"), COLLECTION, SETTINGS.photos.max_event_age)
