"""A gunicorn worker that gives a request a thread only when all of it has arrived.

gunicorn's own threaded worker reads requests in their threads, so that a few clients that send nothing, half
a header or a byte now and then occupy all of them. Here an event loop reads all connections without blocking,
as waitress does. Parsing and the form of replies stay gunicorn's. The worker serves HTTP/1.1 without TLS,
which is how functions-framework configures gunicorn.
"""

from __future__ import annotations

import errno
import os
import selectors
import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from gunicorn.http.errors import NoMoreData
from gunicorn.workers import base

from clip_embeddings import background
from clip_embeddings.server.callbacks import Callbacks
from clip_embeddings.server.connection import Connection
from clip_embeddings.server.descriptors import allow_descriptors
from clip_embeddings.server.exchange import Reply, answer, declared_length, parse_head
from clip_embeddings.server.limits import CONNECTIONS, STOP_IDLE, STOP_TIMEOUT, ServerLimits
from clip_embeddings.server.loop import EventLoop
from clip_embeddings.server.request_threads import RequestThreads

# Seconds between two looks at the deadlines.
TICK = 0.25
SPARE_THREADS = 4
# Connections that are accepted before others have their turn.
ACCEPTED_AT_ONCE = 64
# The process or the system has no more file descriptors, or no memory for another socket.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class BufferingWorker(base.Worker):  # type: ignore[misc]
    """A serving process. `limits` is set in a subclass, because gunicorn makes the object."""

    limits: ServerLimits

    def init_process(self) -> None:
        """Called by gunicorn in the new process; serves until the end."""
        # Called in the thread of the loop, whichever thread defers them.
        self._callbacks = Callbacks()
        self._loop = EventLoop(
            self.limits,
            self,
            self.cfg.keepalive,
            wake=lambda: self._callbacks.defer(self._loop.admit),
        )
        self._threads: RequestThreads[Connection] = RequestThreads(self.limits.threads, self._answer)
        # Requests without a body, such as health checks, need not wait for those of clients in a queue.
        self._spare_threads: RequestThreads[Connection] = RequestThreads(SPARE_THREADS, self._answer)
        self._most_connections = allow_descriptors(CONNECTIONS)
        self._accepting = False
        # Times of time.monotonic().
        self._accept_again = 0.0
        self._next_look = 0.0
        super().init_process()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: answer what has been sent, then end."""
        self.alive = False
        self._callbacks.defer(lambda: None)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT and SIGQUIT: end at once."""
        self.alive = False
        self._exit()

    def run(self) -> None:
        """Serve until a signal ends it, or gunicorn's master is gone."""
        self._loop.poller.register(self._callbacks.fileno(), selectors.EVENT_READ, self._callbacks.run)
        while self.alive:
            self._accept_events(self._loop.count < self._most_connections)
            self._turn()
        self._stop()
        self._exit()

    def parse(self, connection: Connection, head: bytes) -> int | None:
        """See `Handler`."""
        connection.request = parse_head(self.cfg, head, connection.client)
        return declared_length(connection.request)

    def refuse(self, connection: Connection, error: Exception) -> bytes:
        """See `Handler`."""
        if isinstance(error, (NoMoreData, StopIteration)):
            return b""
        reply = Reply()
        self.handle_error(None, reply, connection.client, error)
        return b"".join(reply.parts)

    def submit(self, connection: Connection) -> None:
        """See `Handler`."""
        busy = self._threads.is_busy() and not connection.body
        (self._spare_threads if busy else self._threads).submit(connection)

    def _answer(self, connection: Connection) -> None:
        """Answer a request, in its thread."""
        keep = False
        try:
            try:
                reply, keep = answer(
                    self.wsgi, self.cfg, connection, self._loop.largest_body, closing=not self.alive
                )
            except Exception as error:
                reply = Reply()
                self.handle_error(connection.request, reply, connection.client, error)
            connection.send(reply.parts)
            self.limits.after_reply()
        except OSError:
            # The client is gone.
            keep = False
        finally:
            self._callbacks.defer(self._loop.finish, connection, keep)

    def _turn(self) -> None:
        """Wait for events, handle them, and look at the deadlines."""
        for key, _ in self._loop.poller.select(TICK if self._loop.count else 1.0):
            if isinstance(key.data, Connection):
                self._loop.on_ready(key.data)
            else:
                key.data(key.fileobj)
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + TICK
            self._loop.expire(now)
            if self.timeout:
                # gunicorn's master ends a process that says nothing for so long.
                self.notify()
            # Without its master, the process ends.
            self.alive = self.alive and self.ppid == os.getppid()

    def _accept_events(self, accepting: bool) -> None:
        """Watch the listening sockets, or leave new connections to the system's backlog."""
        if accepting == self._accepting or (accepting and time.monotonic() < self._accept_again):
            return
        for listener in self.sockets:
            if accepting:
                self._loop.poller.register(listener, selectors.EVENT_READ, self._accept)
            else:
                self._loop.poller.unregister(listener)
        self._accepting = accepting

    def _accept(self, listener: Any, most: int = ACCEPTED_AT_ONCE) -> int:
        """Accept connections that wait, at most `most`. Returns how many."""
        server = listener.getsockname()
        for count in range(most):
            try:
                sock, client = listener.accept()
            except (BlockingIOError, InterruptedError):
                return count
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                self.log.error("No more connections can be accepted: %s", error)
                self._accept_events(False)
                self._accept_again = time.monotonic() + 1
                return count
            self._loop.open(sock, client, server)
        return most

    def _stop(self) -> None:
        """Answer what was sent before the signal, and what is sent on connections that are still open."""
        background.begin_stop_all()
        for listener in self.sockets:
            # The system has accepted these connections, and their clients may have sent requests.
            self._accept(listener, sys.maxsize)
        self._accept_events(False)
        for listener in self.sockets:
            listener.close()
        now = time.monotonic()
        last = now + self.cfg.graceful_timeout
        self._loop.stop(now, STOP_IDLE, STOP_TIMEOUT)
        while self._loop.count and time.monotonic() < last:
            self._turn()

    def _exit(self) -> None:
        """End the process.

        Python's own way of ending takes its lock from threads that run the model, whose C++ code then calls
        std::terminate ("terminate called without an active exception").
        """
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            # gunicorn's master sends a second one.
            signal.signal(signum, signal.SIG_IGN)
        background.abandon_all()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(0)
