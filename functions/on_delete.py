"""CloudEvent function: takes the photo that was just removed from the bucket out of the index."""

import functions_framework
from cloudevents.http import CloudEvent

from clip_embeddings.photos.events import handle_deleted
from clip_embeddings.photos.indexed_bucket import open_indexed_bucket
from clip_embeddings.startup import starting
from clip_embeddings.storage.events import is_handled

with starting("on_delete") as runtime:
    BUCKET = open_indexed_bucket(runtime.settings)


@functions_framework.cloud_event
def on_delete(event: CloudEvent) -> None:
    """Raises where a retry may help: the platform delivers again."""
    if is_handled("on_delete", event["type"]):
        handle_deleted(event.data, event.get("time"), BUCKET, runtime.settings.photos.max_event_age)
