"""CloudEvent function: embeds the photo that was just written to the bucket, and puts it into the index."""

import functions_framework
from cloudevents.http import CloudEvent

from clip_embeddings.startup import starting
from clip_embeddings.storage.events import is_handled

with starting("on_upload") as runtime:
    from clip_embeddings.photos.events import handle_finalized
    from clip_embeddings.photos.indexed_bucket import open_indexed_bucket
    from clip_embeddings.photos.indexer import open_indexer

    INDEXER = open_indexer(open_indexed_bucket(runtime.settings), runtime)


@functions_framework.cloud_event
def on_upload(event: CloudEvent) -> None:
    """Log and return where a retry cannot help. Raise where it may: the platform delivers the event again."""
    if is_handled("on_upload", event["type"]):
        handle_finalized(event.data, event.get("time"), INDEXER)
