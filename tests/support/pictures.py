"""Small images in every format, made from real photos, and a loopback web server for them."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pillow_heif

from tests.support.photographs import photo

FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP", "AVIF", "HEIC")


@cache
def picture(name: str = "chelsea", kind: str = "JPEG", size: tuple[int, int] = (160, 120)) -> bytes:
    """The photo `name` as a file in the format `kind`, with `size` pixels in width and height."""
    image = photo(name).convert("RGB").resize(size)
    file = io.BytesIO()
    if kind == "HEIC":
        pillow_heif.from_pillow(image).save(file, quality=80)
    else:
        image.save(file, kind)
    return file.getvalue()


def in_base64(data: bytes) -> str:
    """`data` as standard base64."""
    return base64.b64encode(data).decode()


def data_uri(data: bytes, media_type: str = "image/jpeg") -> str:
    """`data` as a data URI."""
    return f"data:{media_type};base64,{in_base64(data)}"


@contextmanager
def web(files: Mapping[str, bytes]) -> Iterator[str]:
    """The URL of a server with `files` by path. Every media type is text/plain, every other path a 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            self.send_response(200 if path in files else 404)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write(files.get(path, b"nothing here"))

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
