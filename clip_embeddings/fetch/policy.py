"""Which URLs may be fetched: their form, their port and every address of their host.

`resolve_target` looks a host up once and returns the address to connect to. The transport connects to exactly
that address, so a name that resolves differently the second time (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
import queue
import re
import socket
import threading
from urllib.parse import urlsplit

from clip_embeddings.config import FetchSettings
from clip_embeddings.fetch.types import (
    DEFAULT_PORTS,
    Deadline,
    Target,
    fetch_failed,
    forbidden_url,
    invalid_url,
)

# RFC 9110, section 4.1, recommends that all senders and recipients support at least 8,000 octets.
MAX_URL_CHARS = 8192

# Control characters and the backslash. Browsers read a backslash as a slash (WHATWG URL), urllib reads it as
# part of the host.
_FORBIDDEN_CHARS = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
# A bracketed IPv6 address or a host name, and an optional port.
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s\[\]@:%]{1,254}))(?::([0-9]{0,5}))?")
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
# Names that resolvers read as an IPv4 address in decimal, hexadecimal, octal or short form: inet_aton(3).
_NUMERIC_NAME = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")

# The only IPv6 space allocated for the public internet: IANA IPv6 Address Space registry. It excludes every
# local, IPv4-mapped, IPv4-compatible, NAT64 and multicast address.
_PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")
_FORBIDDEN = [
    ipaddress.ip_network(network)
    for network in (
        # IANA IPv4 Special-Purpose Address registry
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
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
        # Azure's platform services: learn.microsoft.com, "What is IP address 168.63.129.16?"
        "168.63.129.16/32",
        # IANA IPv6 Special-Purpose Address registry, the entries inside 2000::/3
        "2001::/23",  # Teredo, ORCHID, benchmarking
        "2001:db8::/32",
        "2002::/16",  # 6to4 can carry any IPv4 address
        "3fff::/20",
    )
]


def is_public(address: str) -> bool:
    """Whether an IP address belongs to a host on the public internet."""
    ip = ipaddress.ip_address(address)
    return (ip.version == 4 or ip in _PUBLIC_IPV6) and not any(ip in network for network in _FORBIDDEN)


def resolve_target(url: str, settings: FetchSettings, deadline: Deadline) -> Target:
    """Check `url` against the policy and resolve its host.

    Raises:
        ApiError: 400 `url_invalid`, 400 `url_forbidden` (address or port), 422 `fetch_failed` (unknown host).
        TimeoutError: the deadline passed while the host was looked up.
    """
    scheme, host, port, path = _split(url)
    private = host in {name.lower().strip("[].") for name in settings.private_hosts}
    if not private and port not in settings.ports:
        raise forbidden_url("its port is not one that images are fetched from")
    addresses = [host] if _is_address(host) else _resolve(host, port, deadline)
    # Every address must be public, because the name server decides which one comes first.
    if not private and not all(map(is_public, addresses)):
        raise forbidden_url("its host is not on the public internet")
    # IPv4 first: Cloud Run reaches IPv6 only through a dual-stack network.
    address = min(addresses, key=lambda candidate: ":" in candidate)
    return Target(scheme, host, port, path, address, private)


def _split(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port, and path with query, of a URL whose form is accepted."""
    if len(url) > MAX_URL_CHARS:
        raise invalid_url(f"it is longer than {MAX_URL_CHARS} characters")
    if _FORBIDDEN_CHARS.search(url):
        raise invalid_url("it holds a control character or a backslash")
    try:
        url.encode()
        parts = urlsplit(url)
    except ValueError:
        raise invalid_url("it cannot be read") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise invalid_url("it does not start with http:// or https://")
    if "@" in parts.netloc:
        raise invalid_url("it holds a user name or password")
    authority = _AUTHORITY.fullmatch(parts.netloc)
    if not authority:
        raise invalid_url("it has no readable host and port")
    ip, name, digits = authority.groups()
    port = int(digits) if digits else DEFAULT_PORTS[parts.scheme]
    if not 1 <= port <= 65535:
        raise invalid_url("its port is not from 1 to 65535")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.scheme, _ipv6_literal(ip) if ip else _host_name(name), port, path


def _ipv6_literal(ip: str) -> str:
    try:
        return str(ipaddress.IPv6Address(ip))
    except ValueError:
        raise invalid_url("its IPv6 address cannot be read") from None


def _host_name(name: str) -> str:
    """`name` in ASCII and lower case, without a final dot."""
    if not name.isascii():
        import idna

        try:
            # This turns full-width digits and dots into plain ones before any check looks at them.
            name = idna.encode(name, uts46=True).decode()
        except UnicodeError:
            raise invalid_url("its host name is not a valid international name") from None
    name = name.lower().removesuffix(".")
    if not _NAME.fullmatch(name):
        raise invalid_url("its host name is not valid")
    if _NUMERIC_NAME.fullmatch(name) and not _is_address(name):
        raise invalid_url("an IPv4 address is written as four decimal numbers")
    return name


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _resolve(host: str, port: int, deadline: Deadline) -> list[str]:
    """All addresses of `host`, at least one."""
    results: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            entries = []
        results.put([str(entry[4][0]) for entry in entries])

    # getaddrinfo cannot be interrupted. A thread that outlives the deadline ends with the resolver's own
    # timeout (resolv.conf(5)).
    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    try:
        addresses = results.get(timeout=deadline.seconds_left())
    except queue.Empty:
        raise TimeoutError from None
    if not addresses:
        raise fetch_failed("its host name was not found")
    return addresses
