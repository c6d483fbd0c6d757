"""One GET request to one checked address, under a deadline.

The first fetch imports this module; start-up does not, because requests is slow to load.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPException, HTTPResponse
from typing import Any

from requests import PreparedRequest, Request, RequestException, Timeout
from requests.exceptions import SSLError
from requests_hardened.ip_filter import InvalidIPAddress
from requests_hardened.ip_filter_adapter import IPFilterAdapter
from urllib3 import BaseHTTPResponse, HTTPConnectionPool
from urllib3.exceptions import HTTPError, ReadTimeoutError

from clip_embeddings.fetch.types import DEFAULT_PORTS, Deadline, Target, fetch_failed, forbidden_url

# Images gain nothing from a content coding. Servers that apply one anyway are still understood.
HEADERS = {"User-Agent": "clip-embedding-functions", "Accept-Encoding": "identity", "Connection": "close"}

# Bytes allowed for headers and chunk framing, on top of the body.
OVERHEAD = 1024 * 1024


@contextmanager
def get(target: Target, deadline: Deadline, max_bytes: int) -> Iterator[BaseHTTPResponse]:
    """Request `target.path` from `target.address`; yield the response with its body not yet read.

    The body may have `max_bytes` at most. Errors raised while the caller reads it inside the `with` block are
    translated in the same way.

    Raises:
        ApiError: 422 `fetch_failed`, or 400 `url_forbidden` where requests-hardened refuses the address.
        TimeoutError: the deadline passed, or connecting took half of the time that was left.
    """
    url = f"{target.scheme}://{_bracketed(target.address)}:{target.port}{target.path}"
    try:
        # There is no session, so no environment variable, netrc file, cookie or redirect can take part.
        with closing(_PinnedAdapter(target, deadline, max_bytes + OVERHEAD)) as adapter:
            request = Request("GET", url, headers=HEADERS).prepare()
            seconds = deadline.seconds_left()
            # The first number bounds the TCP handshake and the TLS handshake, each on its own.
            with adapter.send(request, stream=True, timeout=(seconds / 2, seconds)) as response:
                yield response
    except (Timeout, ReadTimeoutError):
        raise TimeoutError from None
    except InvalidIPAddress:
        raise forbidden_url("its host is not on the public internet") from None
    except SSLError:
        raise fetch_failed("the server has no valid TLS certificate, or speaks no TLS") from None
    # http.client raises ValueError and OverflowError for some malformed responses.
    except (RequestException, HTTPError, HTTPException, ValueError, OverflowError):
        raise fetch_failed("the connection was refused or broken off") from None


class _PinnedAdapter(IPFilterAdapter):  # type: ignore[misc]  # requests-hardened ships no types.
    """Connects to the IP address in the URL and presents the host name to the server.

    requests-hardened checks the address a second time, with its own list.
    """

    def __init__(self, target: Target, deadline: Deadline, max_bytes: int) -> None:
        super().__init__(is_https_proto=target.scheme == "https")
        self._target = target
        self._deadline = deadline
        self._max_bytes = max_bytes
        self._responses: list[HTTPResponse] = []

    def build_connection_pool_key_attributes(
        self, request: PreparedRequest, verify: bool | str, cert: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        target = self._target
        # requests-hardened would refuse a private host: call the method of plain requests instead.
        parent: Any = super(IPFilterAdapter, self) if target.private else super()
        host_params, pool_kwargs = parent.build_connection_pool_key_attributes(request, verify, cert)
        port = "" if target.port == DEFAULT_PORTS[target.scheme] else f":{target.port}"
        request.headers["Host"] = _bracketed(target.host) + port
        if target.scheme == "https":
            pool_kwargs |= {"assert_hostname": target.host, "server_hostname": target.host}
        return host_params, pool_kwargs

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        pool: HTTPConnectionPool = super().get_connection_with_tls_context(*args, **kwargs)
        connection_class = pool.ConnectionCls

        def make_connection(**options: Any) -> Any:
            connection: Any = connection_class(**options)
            connection.response_class = self._make_response
            return connection

        pool.ConnectionCls = make_connection  # type: ignore[assignment]
        return pool

    def build_response(self, req: PreparedRequest, resp: BaseHTTPResponse) -> BaseHTTPResponse:
        # Returns urllib3's own response: requests would parse its cookies, which for hostile ones takes many
        # seconds.
        return resp

    def close(self) -> None:
        super().close()
        # urllib3 loses a response whose headers it rejects, and with it the open socket.
        for response in self._responses:
            response.close()

    def _make_response(self, sock: socket.socket, **options: Any) -> HTTPResponse:
        response = HTTPResponse(sock, **options)
        reader = _BoundedReader(response.fp.detach(), sock, self._deadline, self._max_bytes)
        response.fp = io.BufferedReader(reader)
        self._responses.append(response)
        return response


class _BoundedReader(io.RawIOBase):
    """Limits each read to the time left, and all reads together to `max_bytes`.

    A socket's own timeout starts again with every byte. Some bytes cost time without adding to a body:
    endless trailers, interim responses, empty gzip blocks.
    """

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: Deadline, max_bytes: int) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = deadline
        self._bytes_left = max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._deadline.seconds_left())
        count = self._raw.readinto(buffer)
        self._bytes_left -= count or 0
        if self._bytes_left < 0:
            raise fetch_failed("the server sent far more bytes than the image has")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
