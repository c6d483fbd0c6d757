"""Which hosts a request may name, where a server answers only to some.

A page of another site can let its own name resolve to 127.0.0.1 and then read, as its own site, whatever a
server of this machine answers without a key (DNS rebinding). Such requests name the page's host in `Host`.
"""

from __future__ import annotations

import re

from flask import Request

from clip_embeddings.errors import ApiError

# A name or an IPv4 address, or an IPv6 address in brackets; then any port. RFC 9110, section 7.2.
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d*)?", re.IGNORECASE)


def is_allowed_host(request: Request, hosts: frozenset[str]) -> bool:
    """Whether the request's `Host` is among `hosts`, on any port. An empty set allows every host."""
    if not hosts:
        return True
    match = HOST.fullmatch(request.headers.get("Host", "").strip())
    return match is not None and match[1].strip("[]").lower() in {name.strip("[]") for name in hosts}


def host_unknown(hosts: frozenset[str]) -> ApiError:
    """The error for a request that names another host."""
    message = f"This server answers only to the hosts {', '.join(sorted(hosts))}; ALLOWED_HOSTS lists them."
    return ApiError(421, "host_unknown", message)
