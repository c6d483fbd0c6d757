"""Fetching: bodies, broken responses, redirects, deadlines, certificates."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from clip_embeddings.config import FetchSettings
from clip_embeddings.fetch.client import fetch
from tests.support.fetching import LOOPBACK, MAX_BYTES, PUBLIC, Names, fetch_error, redirect_connections
from tests.support.image_servers import IMAGE, Server, self_signed, serving

pytestmark = pytest.mark.usefixtures("connected", "names")


@pytest.mark.parametrize("encoding", ["sized", "unsized", "chunked", "gzip", "deflate"])
def test_a_body_up_to_the_limit_arrives(encoding: str, server: Server) -> None:
    assert fetch(server.url(f"/{encoding}/{MAX_BYTES}"), LOOPBACK, MAX_BYTES) == b"x" * MAX_BYTES


@pytest.mark.parametrize("encoding", ["sized", "unsized", "chunked", "gzip", "deflate"])
@pytest.mark.parametrize("size", [MAX_BYTES + 1, 5_000_000])
def test_a_body_over_the_limit_is_refused(encoding: str, size: int, server: Server) -> None:
    error = fetch_error(server.url(f"/{encoding}/{size}"))

    assert (error.status, error.code) == (413, "image_too_large")


def test_a_declared_length_over_the_limit_is_refused_unread(server: Server) -> None:
    started = time.monotonic()

    error = fetch_error(server.url(f"/claims/{'9' * 4000}"))

    assert error.code == "image_too_large"
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "encoding", ["gzip, gzip", "gzip,deflate", "br", "zstd", "compress", "gzip", "deflate", "x"]
)
def test_a_body_that_cannot_be_decoded_is_refused(encoding: str, server: Server) -> None:
    error = fetch_error(server.url(f"/encoding/{quote(encoding)}"))

    assert (error.status, error.code) == (422, "fetch_failed")


def test_the_identity_encoding_is_accepted(server: Server) -> None:
    assert fetch(server.url("/encoding/identity"), LOOPBACK, MAX_BYTES) == IMAGE


@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 401, 404, 407, 429, 500, 503])
def test_any_status_but_200_is_refused(status: int, server: Server) -> None:
    error = fetch_error(server.url(f"/status/{status}"))

    assert (error.status, error.code) == (422, "fetch_failed")
    assert str(status) in error.message


@pytest.mark.parametrize(
    "path",
    [
        "/sized/0",
        "/claims/100",
        "/bare-redirect",
        "/garbage/",
        "/garbage/hello",
        "/garbage/HTTP%2F1.1%20abc%0D%0A%0D%0A",
        "/garbage/HTTP%2F1.1%20200%20OK%0D%0AContent-Length%3A%201%2C%202%0D%0A%0D%0Ax",
        "/garbage/HTTP%2F1.1%20200%20OK%0D%0ATransfer-Encoding%3A%20chunked%0D%0A%0D%0Azz%0D%0A",
        "/garbage/HTTP%2F1.1%20200%20OK%0D%0ATransfer-Encoding%3A%20chunked%0D%0A%0D%0A-5%0D%0Axx",
        "/headers/200",
        "/reason/70000",
    ],
    ids=lambda path: path[:60],
)
def test_a_malformed_response_is_refused(path: str, server: Server) -> None:
    error = fetch_error(server.url(path))

    assert (error.status, error.code) == (422, "fetch_failed")


@pytest.mark.parametrize("path", ["/interim", "/trailers", "/gzip-members"])
def test_bytes_outside_the_body_count_towards_the_limit(path: str, server: Server) -> None:
    started = time.monotonic()

    error = fetch_error(server.url(path))

    assert (error.status, error.code) == (422, "fetch_failed")
    assert time.monotonic() - started < 2


def test_cookies_are_not_parsed(server: Server) -> None:
    started = time.monotonic()

    # The headers are larger than the allowance beside a body of `MAX_BYTES` bytes, hence the higher limit.
    body = fetch(server.url("/cookies"), LOOPBACK, 10_000_000)

    assert body == IMAGE
    assert time.monotonic() - started < 2


def test_a_refused_connection_is_reported(server: Server) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))

        error = fetch_error(f"http://127.0.0.1:{bound.getsockname()[1]}/")

    assert (error.status, error.code) == (422, "fetch_failed")
    assert "refused" in error.message


def test_an_unknown_name_is_reported(connected: list[Any]) -> None:
    error = fetch_error("http://nowhere.example/", FetchSettings())

    assert (error.status, error.code) == (422, "fetch_failed")
    assert "not found" in error.message
    assert connected == []


def test_redirects_within_the_limit_are_followed(server: Server) -> None:
    body = fetch(server.url("/hops/3"), LOOPBACK, MAX_BYTES)

    assert body == IMAGE
    assert [path for path, _ in server.requests] == ["/hops/3", "/hops/2", "/hops/1", "/image"]


@pytest.mark.parametrize("path", ["/hops/4", "/loop"])
def test_one_redirect_too_many_is_refused(path: str, server: Server) -> None:
    error = fetch_error(server.url(path))

    assert (error.status, error.code) == (422, "fetch_failed")
    assert "redirects" in error.message
    assert len(server.requests) == 4


def test_the_body_of_a_redirect_is_not_read(server: Server) -> None:
    assert fetch(server.url("/endless-redirect"), LOOPBACK, MAX_BYTES) == IMAGE


def test_a_redirect_location_in_utf8_is_followed(server: Server) -> None:
    response = "HTTP/1.1 302 Found\r\nLocation: /image/ä\r\n\r\n".encode()

    fetch(server.url(f"/garbage/{quote(response)}"), LOOPBACK, MAX_BYTES)

    assert server.requests[1][0] == "/image/%C3%A4"


def test_redirects_send_no_cookie_and_no_referrer(server: Server) -> None:
    fetch(server.url("/redirect/302/%2Fimage"), LOOPBACK, MAX_BYTES)

    for _, headers in server.requests:
        assert set(headers) == {"host", "user-agent", "accept-encoding", "connection"}


def test_proxies_and_netrc_of_the_environment_are_ignored(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, connected: list[Any]
) -> None:
    with serving() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url(""))
            monkeypatch.setenv(name.lower(), proxy.url(""))
        (tmp_path / "netrc").write_text("default login user password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)

        body = fetch(server.url("/image"), LOOPBACK, MAX_BYTES)

    assert body == IMAGE
    assert proxy.requests == []
    assert connected == [server.server_address]
    assert "authorization" not in server.requests[0][1]


@pytest.mark.parametrize(
    "path",
    ["/slow-header", "/slow-status", "/slow-body", "/slow-chunk", "/slow-gzip", "/silent", "/busy/0.6"],
)
def test_one_deadline_covers_every_part_of_a_response(path: str, server: Server) -> None:
    started = time.monotonic()

    error = fetch_error(server.url(path), replace(LOOPBACK, timeout=0.3))

    assert (error.status, error.code) == (422, "fetch_timeout")
    assert time.monotonic() - started < 1


def test_one_deadline_covers_all_redirects(server: Server) -> None:
    started = time.monotonic()

    error = fetch_error(
        server.url(f"/redirect/302/{quote('/redirect/302/%2Fslow-body', safe='')}"),
        replace(LOOPBACK, timeout=0.3),
    )

    assert error.code == "fetch_timeout"
    assert time.monotonic() - started < 1


def test_the_deadline_covers_the_name_server(names: Names, connected: list[Any]) -> None:
    names.add("slow.example", [PUBLIC])
    release = threading.Event()
    names.delay = release.wait
    started = time.monotonic()

    error = fetch_error("http://slow.example/", FetchSettings(timeout=0.3))

    assert error.code == "fetch_timeout"
    assert time.monotonic() - started < 1
    assert connected == []
    release.set()


def test_the_deadline_covers_the_tls_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()

        error = fetch_error(f"https://127.0.0.1:{silent.getsockname()[1]}/", replace(LOOPBACK, timeout=0.3))

    assert error.code == "fetch_timeout"
    assert time.monotonic() - started < 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls"), "DNS:images.example,IP:127.0.0.1")


@pytest.fixture(scope="module")
def tls_server(certificate: Path) -> Iterator[Server]:
    with serving(certificate) as running:
        yield running


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(certificate))


def test_a_self_signed_certificate_is_refused(
    tls_server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(certificate))

    error = fetch_error(tls_server.url("/image", scheme="https"))

    assert (error.status, error.code) == (422, "fetch_failed")
    assert "TLS" in error.message
    assert tls_server.requests == []


@pytest.mark.usefixtures("trusted")
def test_the_certificate_is_checked_against_the_name(
    tls_server: Server, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    names.add("images.example", [PUBLIC])
    names.add("other.example", [PUBLIC])
    tls_server.server_names.clear()
    requested = redirect_connections(monkeypatch, tls_server)

    body = fetch("https://images.example/image", FetchSettings(), MAX_BYTES)
    error = fetch_error("https://other.example/image", FetchSettings())

    assert body == IMAGE
    assert "TLS" in error.message
    assert tls_server.server_names == ["images.example", "other.example"]
    assert requested == [(PUBLIC, 443)] * 2
    assert [headers["host"] for _, headers in tls_server.requests] == ["images.example"]


@pytest.mark.usefixtures("trusted")
def test_a_certificate_for_an_address_is_accepted(tls_server: Server) -> None:
    assert fetch(tls_server.url("/image", scheme="https"), LOOPBACK, MAX_BYTES) == IMAGE


def test_a_server_without_tls_is_refused(server: Server) -> None:
    error = fetch_error(server.url("/image", scheme="https"))

    assert error.code == "fetch_failed"
    assert "TLS" in error.message


def test_importing_the_client_does_not_import_requests() -> None:
    heavy = "{'requests', 'urllib3', 'requests_hardened', 'idna'}"
    code = f"import sys, clip_embeddings.fetch.client; sys.exit(sorted({heavy} & set(sys.modules)) or 0)"

    subprocess.run([sys.executable, "-c", code], check=True)
