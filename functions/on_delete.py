"""CloudEvent function: takes the photo that was just removed from the bucket out of the index."""

import functions_framework
from cloudevents.http import CloudEvent

from clip_embeddings.photos.collection import open_collection
from clip_embeddings.photos.events import deleted
from clip_embeddings.runtime import explained, start_logging

# No model: it needs none.
with explained("on_delete"):
    SETTINGS = start_logging()
    COLLECTION = open_collection(SETTINGS)


@functions_framework.cloud_event
def on_delete(event: CloudEvent) -> None:
    """Raises where a retry may help: the platform delivers again."""
    deleted(event.data, event.get("time"), COLLECTION, SETTINGS.photos.max_event_age)
