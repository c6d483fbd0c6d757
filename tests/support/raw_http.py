"""Requests as the bytes that a client sends, where no client may add or change a header."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from http.client import HTTPMessage, HTTPResponse
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class RawReply:
    """What a server answered."""

    status: int
    headers: HTTPMessage
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def exchange(url: str, head: str, body: bytes = b"") -> RawReply:
    """Send a request and read the reply.

    Args:
        url: of the server; its path is not used.
        head: request line and headers, one per line. `HOST` and `LENGTH` stand for the server's address and
            the length of `body`.
        body: sent as it is.
    """
    address = urlsplit(url).netloc
    lines = head.strip().replace("HOST", address).replace("LENGTH", str(len(body))).splitlines()
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall("\r\n".join([*(line.strip() for line in lines), "", ""]).encode() + body)
        response = HTTPResponse(connection)
        response.begin()
        return RawReply(response.status, response.headers, response.read())
