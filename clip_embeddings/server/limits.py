"""What the server needs to know of the function: its limits, and the memory that bodies share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from clip_embeddings.semaphore import FairSemaphore

KiB = 1024

# Seconds for a whole head, and for a new connection to begin one.
HEAD_TIMEOUT = 10.0
# Bodies and replies must move at this rate, in bytes a second, but for BODY_TIMEOUT seconds in all.
SLOWEST = 16 * KiB
# Seconds that a body waits for memory before it is refused.
ROOM_TIMEOUT = 10.0
# Seconds that the server, after its last word, waits for the client to close, and the bytes it then discards:
# a client that still sends would see a broken connection instead of the reply.
CLOSE_TIMEOUT = 2.0
# Seconds after SIGTERM in which requests may still arrive. Cloud Run ends the process 10 seconds after it.
STOP_TIMEOUT = 8.0
# Seconds after SIGTERM in which a connection is kept for a request that its client may be sending already.
STOP_IDLE = 2.0
# Bodies up to this size share a budget of their own, so that large ones do not keep them waiting.
SMALL_BODY = 64 * KiB
SMALL_BODIES = 16 * KiB * KiB
# Every connection may have a head and a body of this size without taking them from a budget: with
# CONNECTIONS, 64 MiB at worst.
FREE = 4 * KiB
LARGE_HEADS = 16 * KiB * KiB
CONNECTIONS = 8192


class ServerLimits(msgspec.Struct, frozen=True):
    """The limits of one function."""

    # Larger bodies are not read.
    body_bytes: int
    body_timeout: float
    # Bytes that bodies above SMALL_BODY may take, all together.
    bodies: FairSemaphore
    # Requests that may be in work at once, most of them waiting for the model.
    threads: int
    # Whether a request with these headers, by their names in upper case, may send a large body: one without
    # the API key may not.
    wants_body: Callable[[Mapping[str, str]], bool] = lambda headers: True
    # Called after every reply, in the thread of its request.
    after_reply: Callable[[], None] = lambda: None
