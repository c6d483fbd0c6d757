"""A loopback web server with one route for each behavior, good or hostile."""

from __future__ import annotations

import gzip
import ssl
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

IMAGE = b"\x89PNG not really"


class Server(ThreadingHTTPServer):
    """Records its requests, as (path, headers), and the server names of its TLS handshakes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.lock = threading.Lock()
        self.server_names: list[str | None] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Do nothing: clients close connections on purpose."""

    def url(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.server_port}{path}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests.append(
            (self.path, {name.lower(): value for name, value in self.headers.items()})
        )
        self.close_connection = True
        name, _, rest = self.path.removeprefix("/").partition("/")
        ROUTES[name](self, rest)

    def respond(
        self, body: bytes = b"", status: int = 200, length: int | None = None, **headers: str
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def drip(self, data: bytes) -> None:
        """Send `data` slowly, again and again, until the client closes the connection."""
        for byte in iter(lambda: data, None):
            self.wfile.write(byte)
            time.sleep(0.05)


def _image(handler: _Handler, rest: str) -> None:
    handler.respond(IMAGE)


def _sized(handler: _Handler, rest: str) -> None:
    handler.respond(b"x" * int(rest))


def _unsized(handler: _Handler, rest: str) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * int(rest))


def _chunked(handler: _Handler, rest: str) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for start in range(0, int(rest), 100):
        size = min(100, int(rest) - start)
        handler.wfile.write(b"%x\r\n%b\r\n" % (size, b"x" * size))
    handler.wfile.write(b"0\r\n\r\n")


def _claims(handler: _Handler, rest: str) -> None:
    handler.respond(b"x", length=int(rest))


def _gzip(handler: _Handler, rest: str) -> None:
    handler.respond(gzip.compress(b"x" * int(rest)), Content_Encoding="gzip")


def _deflate(handler: _Handler, rest: str) -> None:
    handler.respond(zlib.compress(b"x" * int(rest)), Content_Encoding="deflate")


def _encoding(handler: _Handler, rest: str) -> None:
    handler.respond(IMAGE, Content_Encoding=unquote(rest))


def _status(handler: _Handler, rest: str) -> None:
    handler.respond(b"no", status=int(rest))


def _redirect(handler: _Handler, rest: str) -> None:
    status, _, location = rest.partition("/")
    handler.respond(status=int(status), Location=unquote(location), Set_Cookie="session=secret; Path=/")


def _bare_redirect(handler: _Handler, rest: str) -> None:
    handler.respond(status=302)


def _long_redirect(handler: _Handler, rest: str) -> None:
    handler.respond(status=302, Location="/" + "a" * int(rest))


def _endless_redirect(handler: _Handler, rest: str) -> None:
    handler.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: /image\r\n\r\n")
    handler.drip(b"x" * 65536)


def _hops(handler: _Handler, rest: str) -> None:
    left = int(rest)
    handler.respond(status=302, Location=f"{left - 1}" if left > 1 else "/image")


def _loop(handler: _Handler, rest: str) -> None:
    handler.respond(status=301, Location="/loop")


def _refresh(handler: _Handler, rest: str) -> None:
    page = b'<meta http-equiv="refresh" content="0;url=http://169.254.169.254/">'
    handler.respond(page, Refresh="0;url=http://169.254.169.254/")


def _slow_header(handler: _Handler, rest: str) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    handler.drip(b"x")


def _slow_status(handler: _Handler, rest: str) -> None:
    handler.drip(b"HTTP/1.1 100 Continue\r\n\r\n")


def _slow_body(handler: _Handler, rest: str) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    handler.drip(b"x")


def _slow_chunk(handler: _Handler, rest: str) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
    handler.drip(b"x")


def _slow_gzip(handler: _Handler, rest: str) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
    handler.drip(gzip.compress(b""))


def _silent(handler: _Handler, rest: str) -> None:
    # Returns when the client closes the connection.
    handler.rfile.read(1)


def _busy(handler: _Handler, rest: str) -> None:
    server = handler.server
    with server.lock:
        server.in_flight += 1
        server.most_in_flight = max(server.most_in_flight, server.in_flight)
    time.sleep(float(rest))
    with server.lock:
        server.in_flight -= 1
    handler.respond(handler.path.encode())


def _garbage(handler: _Handler, rest: str) -> None:
    handler.wfile.write(unquote_to_bytes(rest))


def _headers(handler: _Handler, rest: str) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * int(rest) + b"\r\nx")


def _reason(handler: _Handler, rest: str) -> None:
    handler.wfile.write(b"HTTP/1.1 200 " + b"x" * int(rest) + b"\r\n\r\nx")


def _cookies(handler: _Handler, rest: str) -> None:
    line = b"Set-Cookie: " + b"a=b;" * 16_000 + b"\r\n"
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + line * 99 + b"\r\n" + IMAGE)


def _interim(handler: _Handler, rest: str) -> None:
    while True:
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def _trailers(handler: _Handler, rest: str) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
    while True:
        handler.wfile.write(b"a: b\r\n" * 1000)


def _gzip_members(handler: _Handler, rest: str) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
    while True:
        handler.wfile.write(gzip.compress(b"") * 1000)


ROUTES: dict[str, Callable[[_Handler, str], None]] = {
    "image": _image,
    "sized": _sized,
    "unsized": _unsized,
    "chunked": _chunked,
    "claims": _claims,
    "gzip": _gzip,
    "deflate": _deflate,
    "encoding": _encoding,
    "status": _status,
    "redirect": _redirect,
    "bare-redirect": _bare_redirect,
    "long-redirect": _long_redirect,
    "endless-redirect": _endless_redirect,
    "hops": _hops,
    "loop": _loop,
    "refresh": _refresh,
    "slow-header": _slow_header,
    "slow-status": _slow_status,
    "slow-body": _slow_body,
    "slow-chunk": _slow_chunk,
    "slow-gzip": _slow_gzip,
    "silent": _silent,
    "busy": _busy,
    "cookies": _cookies,
    "interim": _interim,
    "trailers": _trailers,
    "gzip-members": _gzip_members,
    "garbage": _garbage,
    "headers": _headers,
    "reason": _reason,
}


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Server]:
    """A server in a thread of its own, with TLS if a certificate is given."""
    with Server() as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            context.sni_callback = lambda sock, name, context: server.server_names.append(name)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def self_signed(folder: Path, names: str) -> Path:
    """A file with a new key and a self-signed certificate for `names`, like "DNS:a.example,IP:127.0.0.1"."""
    key, certificate, combined = (folder / name for name in ("key.pem", "certificate.pem", "combined.pem"))
    command = (
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test "
        f"-addext subjectAltName={names} -keyout {key} -out {certificate}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    combined.write_bytes(key.read_bytes() + certificate.read_bytes())
    return combined
