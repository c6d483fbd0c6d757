"""A model hub on this machine that serves local files to huggingface_hub."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from clip_embeddings.engine.manifest import sha256_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Hub:
    """A running hub. `requests` grows by one "METHOD path" per request."""

    url: str
    requests: list[str] = field(default_factory=list)

    def environment(self, cache: Path) -> dict[str, str]:
        """Settings that make huggingface_hub use this hub, with an empty cache and plain HTTP downloads."""
        return hub_environment(self.url, cache)


def hub_environment(url: str, cache: Path) -> dict[str, str]:
    """Settings that make huggingface_hub use `url`, regardless of the environment."""
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }


@contextmanager
def serving_hub(files: Mapping[str, Path], broken: str = "") -> Iterator[Hub]:
    """Serve `files`, by "repository/file"; a repository named `broken` answers 500 to everything."""

    # Computed before any request: hashing gigabytes takes longer than a client waits.
    etags = {path: sha256_of(path) for path in files.values()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._respond(with_body=False)

        def do_GET(self) -> None:
            self._respond(with_body=True)

        def _respond(self, with_body: bool) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            repository, _, name = self.path.strip("/").partition("/resolve/main/")
            path = files.get(f"{repository}/{name}")
            if path is None:
                self.send_response(500 if repository == broken else 404)
                if any(name.startswith(f"{repository}/") for name in files):
                    # This header distinguishes a missing file from a missing repository.
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(path.stat().st_size))
            self.send_header("ETag", f'"{etags[path]}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                with path.open("rb") as file:
                    while chunk := file.read(1 << 20):
                        self.wfile.write(chunk)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
