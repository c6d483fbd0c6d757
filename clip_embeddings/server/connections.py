"""The open connections of a serving process, and the events that each is watched for."""

from __future__ import annotations

import math
import selectors

from clip_embeddings.server.connection import Connection, State


class Connections:
    """All open connections. Used by the thread of the event loop only."""

    def __init__(self) -> None:
        self.open: set[Connection] = set()
        self.poller = selectors.DefaultSelector()
        # No deadline of a request that arrives is later than this; it is set when the server stops.
        self.last_deadline = math.inf

    def enter(self, connection: Connection, state: State, deadline: float) -> None:
        """Begin a state, which lasts until `deadline` at most."""
        connection.state = state
        connection.deadline = min(deadline, self.last_deadline) if state is not State.THREAD else deadline

    def watch(self, connection: Connection, events: int) -> None:
        """Watch the connection for these events only."""
        if events == connection.events:
            return
        if not connection.events:
            self.poller.register(connection.sock, events, connection)
        elif not events:
            self.poller.unregister(connection.sock)
        else:
            self.poller.modify(connection.sock, events, connection)
        connection.events = events

    def drop(self, connection: Connection) -> None:
        """Close a connection at once."""
        if connection in self.open:
            self.watch(connection, 0)
            self.open.remove(connection)
            connection.state = State.CLOSE
            connection.close()
