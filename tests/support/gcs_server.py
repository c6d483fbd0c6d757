"""The part of Cloud Storage's JSON API that tests need, with its preconditions and generations.

Faults are injected before or after a request is applied. Events are pushed over HTTP as Eventarc does: to
all receivers at once, and again until each has answered 200.
"""

from __future__ import annotations

import base64
import http.client
import json
import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c
import pytest

from clip_embeddings.storage.factory import open_bucket
from clip_embeddings.storage.gcs import GcsBucket
from clip_embeddings.storage.types import NameRange

BUCKET = "bucket"


@dataclass(frozen=True)
class Object:
    """One generation of an object."""

    name: str
    generation: int
    data: bytes
    resource: Mapping[str, Any]
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))

    def json(self) -> dict[str, Any]:
        stamp = self.updated.isoformat().replace("+00:00", "Z")
        return {
            "kind": "storage#object",
            "bucket": BUCKET,
            "name": self.name,
            "generation": str(self.generation),
            "metageneration": "1",
            "size": str(len(self.data)),
            "contentType": self.resource.get("contentType", "application/octet-stream"),
            "metadata": self.resource.get("metadata", {}),
            "crc32c": _crc32c(self.data),
            "timeCreated": stamp,
            "updated": stamp,
        }


@dataclass
class Fault:
    """An error for the next `times` requests of `method` whose path contains `path`."""

    method: str
    path: str = ""
    # before: not applied, `status`; after: applied, `status`; cut: applied, then the connection is closed.
    when: str = "before"
    status: int = 503
    times: int = 1


class GcsServer(ThreadingHTTPServer):
    """One bucket in memory. See the module."""

    daemon_threads = True
    # Objects of one page of a listing: few, so that tests see several pages.
    page_size = 50

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.objects: dict[str, Object] = {}
        self.sessions: dict[str, tuple[dict[str, list[str]], dict[str, Any], bytearray]] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        # The names of all accepted writes, in order.
        self.written: list[str] = []
        self.receivers: list[int] = []
        self.events: queue.Queue[tuple[int, str] | None] = queue.Queue()
        self._generation = 1_700_000_000_000_000

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: some tests kill their clients."""

    def put(self, query: dict[str, list[str]], resource: dict[str, Any], data: bytes) -> Object | None:
        """Write atomically, if the precondition holds; None if it does not."""
        name = resource.get("name") or query["name"][0]
        with self.lock:
            if not self._holds(name, query):
                return None
            self._generation += 1
            self.objects[name] = Object(name, self._generation, data, resource)
            self.written.append(name)
        for number, _ in enumerate(self.receivers):
            self.events.put((number, name))
        return self.objects[name]

    def remove(self, name: str, query: dict[str, list[str]]) -> int:
        with self.lock:
            if name not in self.objects:
                return 404
            if not self._holds(name, query):
                return 412
            del self.objects[name]
            return 204

    def _holds(self, name: str, query: dict[str, list[str]]) -> bool:
        expected = query.get("ifGenerationMatch")
        present = self.objects[name].generation if name in self.objects else 0
        return expected is None or int(expected[0]) == present

    def items(self, prefix: str, within: NameRange, last: str, most: int) -> list[dict[str, Any]]:
        """The first `most` objects of a listing whose names are greater than `last`, in order."""
        with self.lock:
            names = sorted(
                name for name in self.objects if name.startswith(prefix) and name in within and name > last
            )
            return [self.objects[name].json() for name in names[:most]]

    def age(self, name: str, seconds: float) -> None:
        """Set the time of an object to `seconds` ago."""
        updated = datetime.fromtimestamp(time.time() - seconds, UTC)
        self.objects[name] = replace(self.objects[name], updated=updated)

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.path in unquote(path):
                    fault.times -= 1
                    return fault
        return None

    def push_events(self, threads: int = 4) -> None:
        """Push every event to every port in `receivers`, until each has accepted it."""
        for _ in range(threads):
            threading.Thread(target=self._push, daemon=True).start()

    def _push(self) -> None:
        while (event := self.events.get()) is not None:
            number, name = event
            connection = http.client.HTTPConnection("127.0.0.1", self.receivers[number], timeout=30)
            try:
                connection.request("POST", "/", json.dumps({"bucket": BUCKET, "name": name}))
                accepted = connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                accepted = False
            finally:
                connection.close()
            if not accepted:
                time.sleep(0.05)
                self.events.put(event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: GcsServer
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *args: object) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, unquote(self.path)))
        fault = self.server.fault(self.command, self.path)
        if fault and fault.when == "before":
            self._reply(fault.status, {"error": {"code": fault.status, "message": "injected"}})
            return
        status, reply, headers = self._apply(body)
        if fault and fault.when == "cut":
            self.close_connection = True
            self.connection.close()
            return
        self._reply(fault.status if fault else status, reply, **headers)

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _apply(self, body: bytes) -> tuple[int, Any, dict[str, str]]:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        _, _, name = parts.path.partition("/o/")
        if parts.path.startswith("/upload/"):
            return self._upload(query, body)
        if self.command == "DELETE":
            return self.server.remove(unquote(name), query), {}, {}
        return self._read(unquote(name), query) if name else self._list(query)

    def _upload(self, query: dict[str, list[str]], body: bytes) -> tuple[int, Any, dict[str, str]]:
        if query["uploadType"] == ["multipart"]:
            # The boundary is long and random, so no data contains it.
            boundary = self.headers["Content-Type"].partition('boundary="')[2].rstrip('"').encode()
            _, described, content, _ = body.split(b"--" + boundary)
            resource = json.loads(described.partition(b"\r\n\r\n")[2])
            head, _, data = content.partition(b"\r\n\r\n")
            resource.setdefault("contentType", head.partition(b":")[2].strip().decode())
            data = data.removesuffix(b"\r\n")
            return self._put(query, resource, data)
        if self.command == "POST":
            resource = json.loads(body)
            resource["contentType"] = self.headers.get("X-Upload-Content-Type", "application/octet-stream")
            number = str(len(self.server.sessions))
            self.server.sessions[number] = query, resource, bytearray()
            location = f"{self.server.url}/upload/session/o?uploadType=resumable&upload_id={number}"
            return 200, {}, {"Location": location}
        return self._continue(query["upload_id"][0], body)

    def _continue(self, number: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        query, resource, received = self.server.sessions[number]
        byte_range, _, total = self.headers["Content-Range"].removeprefix("bytes ").partition("/")
        if byte_range != "*":
            del received[int(byte_range.split("-")[0]) :]
            received += body
        done = self.server.objects.get(resource["name"])
        if done and done.resource is resource:
            # The session is complete: its result is returned again.
            return 200, done.json(), {}
        if total != "*" and len(received) == int(total):
            return self._put(query, resource, bytes(received))
        return 308, {}, {"Range": f"bytes=0-{len(received) - 1}"} if received else {}

    def _put(
        self, query: dict[str, list[str]], resource: dict[str, Any], data: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        written = self.server.put(query, resource, data)
        return (200, written.json(), {}) if written else (412, {"error": {"message": "precondition"}}, {})

    def _read(self, name: str, query: dict[str, list[str]]) -> tuple[int, Any, dict[str, str]]:
        present = self.server.objects.get(name)
        generation = query.get("generation")
        if present is None or (generation and int(generation[0]) != present.generation):
            return 404, {"error": {"message": f"No such object: {name}"}}, {}
        if query.get("alt") != ["media"]:
            return 200, present.json(), {}
        expected = query.get("ifGenerationMatch")
        if expected and int(expected[0]) != present.generation:
            return 412, {"error": {"message": "precondition"}}, {}
        headers = {
            "X-Goog-Generation": str(present.generation),
            "X-Goog-Hash": f"crc32c={_crc32c(present.data)}",
        }
        if present.resource.get("contentEncoding") == "gzip":
            headers |= {"Content-Encoding": "gzip", "X-Goog-Stored-Content-Encoding": "gzip"}
        if part := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or ""):
            first, last = int(part[1]), int(part[2])
            headers["Content-Range"] = f"bytes {first}-{last}/{len(present.data)}"
            return 206, present.data[first : last + 1], headers
        return 200, present.data, headers

    def _list(self, query: dict[str, list[str]]) -> tuple[int, Any, dict[str, str]]:
        (prefix,), (last,) = query.get("prefix", [""]), query.get("pageToken", [""])
        (start,), (end,) = query.get("startOffset", [""]), query.get("endOffset", [None])
        size = min(int(query.get("maxResults", [self.server.page_size])[0]), self.server.page_size)
        items = self.server.items(prefix, NameRange(start, end), last, size + 1)
        more = {"nextPageToken": items[size - 1]["name"]} if len(items) > size else {}
        items = items[:size]
        if fields := re.match(r"items\((.*?)\)", query.get("fields", [""])[0]):
            items = [{key: item[key] for key in fields[1].split(",")} for item in items]
        return 200, {"items": items, **more}, {}

    def _reply(self, status: int, reply: Any, **headers: str) -> None:
        body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(0 if status == 204 else len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)


def _crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


@contextmanager
def serving() -> Iterator[GcsServer]:
    """A running server with one empty bucket."""
    server = GcsServer()
    with running(server):
        yield server


@contextmanager
def running(server: GcsServer) -> Iterator[None]:
    """Runs a server for the block."""
    thread = threading.Thread(target=lambda: server.serve_forever(0.01), daemon=True)
    thread.start()
    try:
        yield
    finally:
        for _ in range(16):
            server.events.put(None)
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def connected(url: str, prefix: str) -> Iterator[GcsBucket]:
    """The bucket of a server, as a process with this STORAGE_EMULATOR_HOST opens it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        bucket = open_bucket(f"gs://{BUCKET}/{prefix}")
        assert isinstance(bucket, GcsBucket)
        try:
            yield bucket
        finally:
            if bucket.client.made:
                bucket.client.get().close()
