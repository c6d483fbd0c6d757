"""Which addresses, names and redirects may be fetched: each is checked before a packet is sent."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from clip_embeddings.config import FetchSettings
from clip_embeddings.fetch import policy
from clip_embeddings.fetch.client import fetch
from clip_embeddings.fetch.policy import is_public
from tests.support.fetching import LOOPBACK, MAX_BYTES, METADATA, OTHER_PUBLIC, PUBLIC, Names, fetch_error
from tests.support.image_servers import IMAGE, Server

pytestmark = pytest.mark.usefixtures("connected", "names")


FORBIDDEN_ADDRESSES = [
    "0.0.0.0",  # noqa: S104
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.1",
    "127.0.0.53",
    "127.255.255.255",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.255.255",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::a9fe:a9fe",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "::ffff:0:a9fe:a9fe",
    "64:ff9b::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "64:ff9b:1:ffff::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fe80::a9fe:a9fe",
    "febf::1",
    "fec0::1",
    "feff::1",
    "ff02::1",
    "ff0e::1",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
]
ALLOWED_ADDRESSES = [
    PUBLIC,
    OTHER_PUBLIC,
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::",
    "2003::1",
    "2400:cb00::1",
    "3ffe:ffff::1",
]


@pytest.mark.parametrize("address", FORBIDDEN_ADDRESSES)
def test_a_forbidden_address_is_refused_as_a_literal(address: str, connected: list[Any]) -> None:
    host = f"[{address}]" if ":" in address else address

    error = fetch_error(f"http://{host}/", FetchSettings())

    assert (error.status, error.code) == (400, "url_forbidden")
    assert connected == []


@pytest.mark.parametrize("address", FORBIDDEN_ADDRESSES)
def test_a_name_with_one_forbidden_address_is_refused(
    address: str, names: Names, connected: list[Any]
) -> None:
    for position, addresses in enumerate(([address, PUBLIC], [PUBLIC, OTHER_PUBLIC, address])):
        names.add(f"mixed-{position}.example", addresses)

        error = fetch_error(f"https://mixed-{position}.example/", FetchSettings())

        assert (error.status, error.code) == (400, "url_forbidden")
    assert connected == []


@pytest.mark.parametrize("address", ALLOWED_ADDRESSES)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("login", ["user:secret", "user", ":secret", "", "user%40:secret"])
def test_credentials_in_a_url_are_refused_with_a_reason(login: str, connected: list[Any]) -> None:
    error = fetch_error(f"https://{login}@images.example/", FetchSettings())

    assert error.code == "url_invalid"
    assert "user name or password" in error.message
    assert connected == []


LONG_LABEL = "a" * 64
FORBIDDEN_URLS = {
    # An IPv4 address in a form that only resolvers recognize as one.
    "http://2852039166/": "url_invalid",
    "http://0xa9fea9fe/": "url_invalid",
    "http://0XA9FEA9FE/": "url_invalid",
    "http://025177524776/": "url_invalid",
    "http://0251.0376.0251.0376/": "url_invalid",
    "http://0xa9.0xfe.0xa9.0xfe/": "url_invalid",
    "http://0xa9.254.0251.254/": "url_invalid",
    "http://169.254.43518/": "url_invalid",
    "http://169.16689662/": "url_invalid",
    "http://127.1/": "url_invalid",
    "http://127.0.1/": "url_invalid",
    "http://0/": "url_invalid",
    "http://0x/": "url_invalid",
    "http://0x7f.1/": "url_invalid",
    "http://169.254.169.254.1/": "url_invalid",
    "http://169.254.169.0254/": "url_invalid",
    "http://169.254.169.2540/": "url_invalid",
    "http://425.510.425.510/": "url_invalid",
    "http://example.0x7f/": "url_invalid",
    "http://example.1/": "url_invalid",
    "http://169.254.169.254./": "url_forbidden",
    "http://169.254.169.254../": "url_invalid",
    "http://169..254.169.254/": "url_invalid",
    "http://.169.254.169.254/": "url_invalid",
    "HTTP://169.254.169.254/": "url_forbidden",
    "http://１６９.２５４.１６９.２５４/": "url_forbidden",
    "http://169。254。169。254/": "url_forbidden",
    "http://169．254｡169。254/": "url_forbidden",
    "http://①⑥⑨.②⑤④.①⑥⑨.②⑤④/": "url_forbidden",
    "http://𝟏𝟔𝟗.254.169.254/": "url_forbidden",
    "http://169.254.169.254\u00ad/": "url_forbidden",
    "http://127.0.0.１/": "url_forbidden",
    "http://٠.٠.٠.٠/": "url_invalid",
    # IPv6
    "http://[::1]:80/": "url_forbidden",
    "http://[0:0:0:0:0:0:0:1]/": "url_forbidden",
    "http://[0000:0000:0000:0000:0000:FFFF:A9FE:A9FE]/": "url_forbidden",
    "http://[fe80::1%25eth0]/": "url_invalid",
    "http://[fe80::1%eth0]/": "url_invalid",
    "http://[::1%25lo]/": "url_invalid",
    "http://[::1/": "url_invalid",
    "http://::1/": "url_invalid",
    "http://[::1]x/": "url_invalid",
    "http://[::1].example/": "url_invalid",
    "http://x[::1]/": "url_invalid",
    "http://[::1]:80:80/": "url_invalid",
    "http://[169.254.169.254]/": "url_invalid",
    "http://[v1.fe80]/": "url_invalid",
    "http://[]/": "url_invalid",
    "http://[::ffff:169.254.169.0254]/": "url_invalid",
    # URLs in which parsers disagree about the host.
    "http://good@169.254.169.254/": "url_invalid",
    "http://user:secret@images.example/": "url_invalid",
    "http://@images.example/": "url_invalid",
    "http://images.example@169.254.169.254:80@images.example/": "url_invalid",
    "http://169.254.169.254#@images.example/": "url_forbidden",
    "http://169.254.169.254?@images.example/": "url_forbidden",
    "http://169.254.169.254/@images.example/": "url_forbidden",
    "http://169.254.169.254\\@images.example/": "url_invalid",
    "http://images.example\\@169.254.169.254/": "url_invalid",
    "http:\\\\169.254.169.254\\": "url_invalid",
    "http://images.example%40169.254.169.254/": "url_invalid",
    "http://images.example%2f@169.254.169.254/": "url_invalid",
    "http://images.example／@169.254.169.254/": "url_invalid",
    "http://169.254.169.254％00.example/": "url_invalid",
    "http://images.example,169.254.169.254/": "url_invalid",
    "http://images.example;169.254.169.254/": "url_invalid",
    "http://169.254.169.254 .example/": "url_invalid",
    "http://169.254.169.254%20/": "url_invalid",
    "http://169%2e254%2e169%2e254/": "url_invalid",
    "http://%31%36%39.254.169.254/": "url_invalid",
    "http://169.254.169.254%00.example/": "url_invalid",
    "http://169.254.\t169.254/": "url_invalid",
    "http://169.254.\n169.254/": "url_invalid",
    "ht\ttp://169.254.169.254/": "url_invalid",
    "http://169.254.169.254/\r\nHost: images.example": "url_invalid",
    "http://169.254.169.254\x00.example/": "url_invalid",
    "http://169.254.169.254\x85/": "url_invalid",
    "\x01http://169.254.169.254/": "url_invalid",
    " http://169.254.169.254/": "url_forbidden",
    "http:169.254.169.254": "url_invalid",
    "http:/169.254.169.254/": "url_invalid",
    "http:///169.254.169.254/": "url_invalid",
    "//169.254.169.254/": "url_invalid",
    "169.254.169.254": "url_invalid",
    "http://": "url_invalid",
    "http://:80/": "url_invalid",
    "http://./": "url_invalid",
    "http://a..example/": "url_invalid",
    "http://*.example/": "url_invalid",
    f"http://{LONG_LABEL}.example/": "url_invalid",
    f"http://{'a.' * 127}example/": "url_invalid",
    f"http://{'ä' * 8000}/": "url_invalid",
    "http://\ud800/": "url_invalid",
    "http://images.example/\ud800": "url_invalid",
    "http://xn--a.example/": "fetch_failed",
    f"http://images.example/{'a' * 8192}": "url_invalid",
    "": "url_invalid",
    # Schemes
    "file:///etc/passwd": "url_invalid",
    "file://images.example/etc/passwd": "url_invalid",
    "ftp://images.example/": "url_invalid",
    "gopher://images.example:80/_GET": "url_invalid",
    "dict://images.example:80/": "url_invalid",
    "data:image/png;base64,AAAA": "url_invalid",
    "javascript:alert(1)": "url_invalid",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/": "url_invalid",
    "url:http://images.example/": "url_invalid",
    "httpſ://images.example/": "url_invalid",
    # Ports
    "http://images.example:22/": "url_forbidden",
    "http://images.example:25/": "url_forbidden",
    "http://images.example:6379/": "url_forbidden",
    "http://images.example:8080/": "url_forbidden",
    "https://images.example:65535/": "url_forbidden",
    "http://images.example:0/": "url_invalid",
    "http://images.example:65536/": "url_invalid",
    "http://images.example:65616/": "url_invalid",
    "http://images.example:-80/": "url_invalid",
    "http://images.example:+80/": "url_invalid",
    "http://images.example:８０/": "url_invalid",
    "http://images.example:8_0/": "url_invalid",
    "http://images.example:80 /": "url_invalid",
    "http://images.example:000080/": "url_invalid",
    "http://images.example:0x50/": "url_invalid",
    "http://images.example:http/": "url_invalid",
}


@pytest.mark.parametrize("url", FORBIDDEN_URLS, ids=lambda url: ascii(url)[:60])
def test_a_forbidden_url_is_refused(url: str, names: Names, connected: list[Any]) -> None:
    names.add("images.example", [PUBLIC])

    error = fetch_error(url, FetchSettings())

    assert error.code == FORBIDDEN_URLS[url]
    assert error.status == (422 if error.code == "fetch_failed" else 400)
    assert connected == []


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://metadata.google.internal/computeMetadata/v1/", METADATA),
        ("http://METADATA.google.INTERNAL./", METADATA),
        ("http://metadata/", METADATA),
        ("http://localhost/", "127.0.0.1"),
        ("http://LocalHost./", "::1"),
        ("http://127.0.0.1.nip.example/", "127.0.0.1"),
        ("https://intranet.example/", "10.0.0.1"),
        ("https://ｉｎｔｒａｎｅｔ。example/", "10.0.0.1"),
        ("http://link-local.example/", "fe80::1%1"),
    ],
)
def test_a_name_with_a_private_address_is_refused(
    url: str, address: str, names: Names, connected: list[Any]
) -> None:
    for name in ("metadata.google.internal", "metadata", "localhost", "127.0.0.1.nip.example"):
        names.add(name, [address])
    names.add("intranet.example", [address])
    names.add("link-local.example", [address])

    error = fetch_error(url, FetchSettings())

    assert (error.status, error.code) == (400, "url_forbidden")
    assert connected == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://169.254.169.254/computeMetadata/v1/", "url_forbidden"),
        ("//169.254.169.254/", "url_forbidden"),
        ("http://[::ffff:169.254.169.254]/", "url_forbidden"),
        ("http://[::1]/", "url_forbidden"),
        ("http://2852039166/", "url_invalid"),
        ("http://127.0.0.2/", "url_forbidden"),
        ("http://metadata.google.internal/", "url_forbidden"),
        ("http://images.example:6379/", "url_forbidden"),
        ("http://user:secret@images.example/", "url_invalid"),
        ("http://images.example\\@169.254.169.254/", "url_invalid"),
        ("file:///etc/passwd", "url_invalid"),
        ("ftp://images.example/", "url_invalid"),
        ("http://[/", "url_invalid"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_redirect_is_checked_like_the_first_url(
    status: int, location: str, code: str, server: Server, names: Names, connected: list[Any]
) -> None:
    names.add("metadata.google.internal", [METADATA])
    names.add("images.example", [PUBLIC])

    error = fetch_error(server.url(f"/redirect/{status}/{quote(location, safe='')}"))

    assert error.code == code
    assert connected == [server.server_address]


def test_a_redirect_to_an_overlong_url_is_refused(server: Server) -> None:
    assert fetch_error(server.url("/long-redirect/8200")).code == "url_invalid"


def test_a_private_host_may_not_redirect_to_a_forbidden_one(
    server: Server, names: Names, connected: list[Any]
) -> None:
    names.add("localhost", ["127.0.0.1"])

    error = fetch_error(server.url(f"/redirect/302/{quote(server.url('/image', 'localhost'), safe='')}"))

    assert error.code == "url_forbidden"
    assert connected == [server.server_address]


def test_refresh_headers_and_pages_are_not_followed(server: Server, connected: list[Any]) -> None:
    body = fetch(server.url("/refresh"), LOOPBACK, MAX_BYTES)

    assert body.startswith(b"<meta")
    assert connected == [server.server_address]


def test_the_connection_goes_to_the_address_that_was_checked(
    names: Names, requested_addresses: list[tuple[str, int]], server: Server
) -> None:
    names.add("rebind.example", [PUBLIC], ["127.0.0.1"])

    body = fetch("http://Rebind.example./image/x?size=1#part", FetchSettings(), MAX_BYTES)

    assert body == IMAGE
    assert names.lookups == ["rebind.example"]
    assert requested_addresses == [(PUBLIC, 80)]
    [(path, headers)] = server.requests
    assert path == "/image/x?size=1"
    assert headers == {
        "host": "rebind.example",
        "user-agent": "clip-embedding-functions",
        "accept-encoding": "identity",
        "connection": "close",
    }


def test_a_redirect_to_the_same_name_is_checked_again(
    names: Names, requested_addresses: list[tuple[str, int]], server: Server
) -> None:
    names.add("rebind.example", [PUBLIC], ["127.0.0.1"])

    error = fetch_error("http://rebind.example/hops/1", FetchSettings())

    assert error.code == "url_forbidden"
    assert names.lookups == ["rebind.example", "rebind.example"]
    assert requested_addresses == [(PUBLIC, 80)]


def test_requests_hardened_checks_the_address_too(
    names: Names, monkeypatch: pytest.MonkeyPatch, connected: list[Any]
) -> None:
    names.add("intranet.example", ["10.0.0.1"])
    monkeypatch.setattr(policy, "is_public", lambda address: True)

    error = fetch_error("http://intranet.example/", FetchSettings())

    assert error.code == "url_forbidden"
    assert connected == []


def test_an_ipv4_address_is_preferred(names: Names, requested_addresses: list[tuple[str, int]]) -> None:
    names.add("dual.example", [OTHER_PUBLIC, PUBLIC])

    fetch("http://dual.example/image", FetchSettings(), MAX_BYTES)

    assert requested_addresses == [(PUBLIC, 80)]


def test_an_ipv6_address_is_fetched_from(
    names: Names, requested_addresses: list[tuple[str, int]], server: Server
) -> None:
    names.add("six.example", [OTHER_PUBLIC])

    for url in ("http://six.example/image", f"http://[{OTHER_PUBLIC.upper()}]/image"):
        assert fetch(url, FetchSettings(), MAX_BYTES) == IMAGE

    assert (
        requested_addresses == [(f"[{OTHER_PUBLIC}]", 80)] * 2
        or requested_addresses == [(OTHER_PUBLIC, 80)] * 2
    )
    assert [headers["host"] for _, headers in server.requests] == ["six.example", f"[{OTHER_PUBLIC}]"]


@pytest.mark.parametrize(
    ("url_host", "private_host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("localhost", "LocalHost"),
        ("LOCALHOST.", "localhost"),
        ("localhost", "localhost."),
        ("ｌocalhost", "localhost"),
        ("bücher.example", "xn--bcher-kva.example"),
    ],
)
def test_a_private_host_of_the_settings_is_allowed(
    url_host: str, private_host: str, names: Names, server: Server
) -> None:
    names.add("localhost", ["::1", "127.0.0.1"])
    names.add("xn--bcher-kva.example", ["127.0.0.1"])

    body = fetch(
        server.url("/image", url_host), FetchSettings(private_hosts=frozenset({private_host})), MAX_BYTES
    )

    assert body == IMAGE


@pytest.mark.parametrize(
    "host", ["localhost.example", "xlocalhost", "127.0.0.2", "[::ffff:127.0.0.1]", "127.1", "[::1]"]
)
def test_a_host_that_only_resembles_a_private_one_is_refused(
    host: str, names: Names, connected: list[Any]
) -> None:
    names.add("localhost.example", ["127.0.0.1"])
    names.add("xlocalhost", ["127.0.0.1"])

    fetch_error(f"http://{host}/", FetchSettings(private_hosts=frozenset({"127.0.0.1", "localhost"})))

    assert connected == []


def test_another_port_can_be_allowed(
    names: Names, requested_addresses: list[tuple[str, int]], server: Server
) -> None:
    names.add("images.example", [PUBLIC])

    fetch("http://images.example:8080/image", FetchSettings(ports=frozenset({8080})), MAX_BYTES)

    assert requested_addresses == [(PUBLIC, 8080)]
    assert server.requests[0][1]["host"] == "images.example:8080"
