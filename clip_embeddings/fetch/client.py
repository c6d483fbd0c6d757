"""Fetch images by URL without opening a way into the network this process runs in.

A URL is judged here: its form, its port and every address its name has. `pinned` then asks exactly a judged
address, so nothing is looked up twice. Each redirect is judged like the first URL.
"""

from __future__ import annotations

import ipaddress
import queue
import re
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from clip_embeddings.config import FetchSettings
from clip_embeddings.errors import ApiError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

# RFC 9110, section 4.1, asks everyone to support at least 8,000 octets.
MAX_URL_CHARS = 8192
CHUNK = 64 * 1024
DEFAULT_PORTS = {"http": 80, "https": 443}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Chains of codings are left out: a decoder can work on one for ever without needing another byte.
ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})

# Backslash: browsers read it as a slash (WHATWG URL), urllib as part of the host.
_NEVER = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s\[\]@:%]{1,254}))(?::([0-9]{0,5}))?")
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
# Resolvers read such a name as an IPv4 address in decimal, hex, octal or short form: inet_aton(3).
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")

# The only IPv6 space handed out for the public internet: IANA IPv6 Address Space registry. It leaves out
# every local, mapped, compatible, NAT64 and multicast form.
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")
_FORBIDDEN = [
    ipaddress.ip_network(network)
    for network in (
        # IANA IPv4 Special-Purpose Address registry
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: the metadata server of every large cloud
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast: RFC 5771
        "240.0.0.0/4",
        # Azure answers its virtual machines here: learn.microsoft.com, "What is IP address 168.63.129.16?"
        "168.63.129.16/32",
        # IANA IPv6 Special-Purpose Address registry, as far as it lies in 2000::/3
        "2001::/23",  # Teredo, ORCHID, benchmarking
        "2001:db8::/32",
        "2002::/16",  # 6to4 carries any IPv4 address
        "3fff::/20",
    )
]


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock."""

    at: float

    def left(self) -> float:
        """Seconds left, above 0.

        Raises:
            TimeoutError: none are left.
        """
        seconds = self.at - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds


@dataclass(frozen=True)
class Target:
    """One judged URL: what to ask, and at which address."""

    scheme: str
    host: str
    port: int
    path: str
    address: str
    # The settings let this host be private.
    private: bool


def fetch(url: str, settings: FetchSettings, max_bytes: int) -> bytes:
    """The body behind `url`, at most `max_bytes` of it after decoding, within `settings.timeout` seconds.

    Raises:
        CallerError: 400 `url_invalid`, 400 `url_forbidden` (address or port), 413 `image_too_large`,
            422 `fetch_failed` or 422 `fetch_timeout`. The sentence holds no part of the URL and no address.
    """
    # Not needed to start the process, and 0.2 s to import.
    from clip_embeddings.fetch import transport

    deadline = Deadline(time.monotonic() + settings.timeout)
    try:
        for _ in range(settings.max_redirects + 1):
            with transport.get(resolve_target(url, settings, deadline), deadline, max_bytes) as answer:
                location = answer.headers.get("Location") if answer.status in REDIRECTS else None
                if location is None:
                    return _body(answer, max_bytes)
            url = _join(url, location)
    except TimeoutError:
        raise ApiError(422, "fetch_timeout", "The image did not arrive in time.") from None
    raise failed(f"more than {settings.max_redirects} redirects")


def is_public(address: str) -> bool:
    """Whether an IP address belongs to a host on the public internet."""
    ip = ipaddress.ip_address(address)
    return (ip.version == 4 or ip in _PUBLIC_V6) and not any(ip in network for network in _FORBIDDEN)


def invalid(why: str) -> ApiError:
    return ApiError(400, "url_invalid", f"The image URL is not valid: {why}.")


def forbidden(why: str) -> ApiError:
    return ApiError(400, "url_forbidden", f"The image URL is not allowed: {why}.")


def failed(why: str) -> ApiError:
    return ApiError(422, "fetch_failed", f"The image could not be fetched: {why}.")


def resolve_target(url: str, settings: FetchSettings, deadline: Deadline) -> Target:
    scheme, host, port, path = _split(url)
    private = host in {name.lower().strip("[].") for name in settings.private_hosts}
    if not private and port not in settings.ports:
        raise forbidden("its port is not one that images are fetched from")
    addresses = [host] if _is_address(host) else _resolve(host, port, deadline)
    # All of them: which one a connection would use is the name server's choice.
    if not private and not all(map(is_public, addresses)):
        raise forbidden("its host is not on the public internet")
    # IPv4 first: Cloud Run reaches IPv6 only through a dual-stack network.
    address = min(addresses, key=lambda found: ":" in found)
    return Target(scheme, host, port, path, address, private)


def _split(url: str) -> tuple[str, str, int, str]:
    if len(url) > MAX_URL_CHARS:
        raise invalid(f"it is longer than {MAX_URL_CHARS} characters")
    if _NEVER.search(url):
        raise invalid("it holds a control character or a backslash")
    try:
        url.encode()
        parts = urlsplit(url)
    except ValueError:
        raise invalid("it cannot be read") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise invalid("it does not start with http:// or https://")
    if "@" in parts.netloc:
        raise invalid("it holds a user name or password")
    authority = _AUTHORITY.fullmatch(parts.netloc)
    if not authority:
        raise invalid("it has no readable host and port")
    ip, name, digits = authority.groups()
    port = int(digits) if digits else DEFAULT_PORTS[parts.scheme]
    if not 1 <= port <= 65535:
        raise invalid("its port is not from 1 to 65535")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.scheme, _ip_literal(ip) if ip else _host_name(name), port, path


def _ip_literal(ip: str) -> str:
    try:
        return str(ipaddress.IPv6Address(ip))
    except ValueError:
        raise invalid("its IPv6 address cannot be read") from None


def _host_name(name: str) -> str:
    if not name.isascii():
        import idna

        try:
            # Full-width digits and dots become plain ones here, before anything is judged.
            name = idna.encode(name, uts46=True).decode()
        except UnicodeError:
            raise invalid("its host name is not a valid international name") from None
    name = name.lower().removesuffix(".")
    if not _NAME.fullmatch(name):
        raise invalid("its host name is not valid")
    if _NUMERIC.fullmatch(name) and not _is_address(name):
        raise invalid("an IPv4 address is written as four decimal numbers")
    return name


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _resolve(host: str, port: int, deadline: Deadline) -> list[str]:
    found: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            answers = []
        found.put([str(answer[4][0]) for answer in answers])

    # getaddrinfo cannot be interrupted. Left behind at the deadline, the thread ends with the resolver's own
    # time-out (resolv.conf(5)).
    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    try:
        addresses = found.get(timeout=deadline.left())
    except queue.Empty:
        raise TimeoutError from None
    if not addresses:
        raise failed("its host name was not found")
    return addresses


def _join(url: str, location: str) -> str:
    try:
        # http.client reads headers as Latin-1; servers that send more than ASCII send UTF-8.
        return urljoin(url, location.encode("latin-1").decode(errors="replace"))
    except ValueError:
        raise invalid("it redirects to one that cannot be read") from None


def _body(answer: BaseHTTPResponse, max_bytes: int) -> bytes:
    if answer.status != 200:
        raise failed(f"the server answered with status {answer.status}")
    if answer.headers.get("Content-Encoding", "").strip().lower() not in ENCODINGS:
        raise failed("the server used a content encoding other than gzip or deflate")
    if (answer.length_remaining or 0) > max_bytes:
        raise _too_large(f"it has more than {max_bytes:,} bytes")
    chunks: list[bytes] = []
    held = 0
    while chunk := answer.read(CHUNK, decode_content=True):
        held += len(chunk)
        if held > max_bytes:
            raise _too_large(f"it has more than {max_bytes:,} bytes")
        chunks.append(chunk)
    if not chunks:
        raise failed("the server sent nothing")
    return b"".join(chunks)


def _too_large(why: str) -> ApiError:
    return ApiError(413, "image_too_large", f"The image is too large: {why}.")
