"""The types of Cloud Storage's events, and which of them a function acts on."""

from __future__ import annotations

from urllib.parse import quote

from clip_embeddings.functions import find_function
from clip_embeddings.logs import logger

# https://cloud.google.com/eventarc/docs/reference/supported-events
TYPE_PREFIX = "google.cloud.storage.object.v1."


def is_handled(function: str, event_type: str) -> bool:
    """Whether the function of that name acts on events of this type. Others are logged.

    A trigger of another type is a mistake in the setup, which no retry mends: the event is acknowledged.
    """
    trigger = find_function(function).event
    assert trigger is not None, f"no event starts {function}"
    if event_type in [TYPE_PREFIX + kind for kind in trigger.kinds]:
        return True
    # Quoted, so that a line break cannot start a new line of the log.
    logger.info(
        "%s: an event of the type %s was dropped; it acts on %s.",
        function,
        quote(event_type[:200], errors="replace"),
        " and ".join(TYPE_PREFIX + kind for kind in trigger.kinds),
    )
    return False
