"""CloudEvent function: takes the photo that was just removed from the bucket out of the index."""

import functions_framework
from cloudevents.http import CloudEvent

from clip_embeddings.photos.events import handle_deleted
from clip_embeddings.photos.indexed_bucket import IndexedBucket, open_indexed_bucket
from clip_embeddings.runtime import Runtime
from clip_embeddings.startup import start
from clip_embeddings.storage.events import is_handled


def build(runtime: Runtime) -> tuple[IndexedBucket, float]:
    """The indexed bucket, and the age in seconds at which events are dropped."""
    return open_indexed_bucket(runtime.settings), runtime.settings.photos.max_event_age


BUCKET, MAX_AGE = start("on_delete", build)


@functions_framework.cloud_event
def on_delete(event: CloudEvent) -> None:
    """Raises where a retry may help: the platform delivers again."""
    if is_handled("on_delete", event["type"]):
        handle_deleted(event.data, event.get("time"), BUCKET, MAX_AGE)
