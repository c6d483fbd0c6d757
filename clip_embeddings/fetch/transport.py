"""One GET to one judged address, under a deadline.

Imported by the first fetch, not at start-up: requests is slow to load.
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

from clip_embeddings.fetch.client import DEFAULT_PORTS, Deadline, Target, failed, forbidden

# Images gain nothing from a content coding. Servers that use one all the same are understood.
HEADERS = {"User-Agent": "clip-embedding-functions", "Accept-Encoding": "identity", "Connection": "close"}

# Room for headers and chunk framing beside the body, in bytes.
OVERHEAD = 1024 * 1024


@contextmanager
def get(target: Target, deadline: Deadline, max_bytes: int) -> Iterator[BaseHTTPResponse]:
    """Ask `target.address` for `target.path` and give the answer, its body (`max_bytes` at most) unread.

    What goes wrong while the body is read inside the `with` is raised the same way.

    Raises:
        CallerError: 422 `fetch_failed`, or 400 `url_forbidden` where requests-hardened is stricter.
        TimeoutError: the deadline passed, or connecting took half of what was left.
    """
    url = f"{target.scheme}://{_bracketed(target.address)}:{target.port}{target.path}"
    try:
        # Without a session there is no environment, netrc, cookie or redirect to keep out.
        with closing(_PinnedAdapter(target, deadline, max_bytes + OVERHEAD)) as adapter:
            request = Request("GET", url, headers=HEADERS).prepare()
            seconds = deadline.left()
            # The first number bounds the TCP and the TLS handshake, each on its own.
            with adapter.send(request, stream=True, timeout=(seconds / 2, seconds)) as answer:
                yield answer
    except (Timeout, ReadTimeoutError):
        raise TimeoutError from None
    except InvalidIPAddress:
        raise forbidden("its host is not on the public internet") from None
    except SSLError:
        raise failed("the server has no valid TLS certificate, or speaks no TLS") from None
    # http.client raises ValueError and OverflowError for some malformed answers.
    except (RequestException, HTTPError, HTTPException, ValueError, OverflowError):
        raise failed("the connection was refused or broken off") from None


class _PinnedAdapter(IPFilterAdapter):  # type: ignore[misc]  # requests-hardened ships no types.
    """Connects to the address in the URL, which it judges once more; shows the server the name."""

    def __init__(self, target: Target, deadline: Deadline, max_bytes: int) -> None:
        super().__init__(is_https_proto=target.scheme == "https")
        self._target = target
        self._deadline = deadline
        self._max_bytes = max_bytes
        self._answers: list[HTTPResponse] = []

    def build_connection_pool_key_attributes(
        self, request: PreparedRequest, verify: bool | str, cert: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        target = self._target
        # A private host is not for requests-hardened to judge: go past it to plain requests.
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

        def connection(**options: Any) -> Any:
            made: Any = connection_class(**options)
            made.response_class = self._answer
            return made

        pool.ConnectionCls = connection  # type: ignore[assignment]
        return pool

    def build_response(self, req: PreparedRequest, resp: BaseHTTPResponse) -> BaseHTTPResponse:
        # As urllib3 gave it. requests would read its cookies, which for hostile ones takes many seconds.
        return resp

    def close(self) -> None:
        super().close()
        # urllib3 forgets an answer whose headers it refuses, and its socket with it.
        for answer in self._answers:
            answer.close()

    def _answer(self, sock: socket.socket, **options: Any) -> HTTPResponse:
        answer = HTTPResponse(sock, **options)
        reader = _BoundedReader(answer.fp.detach(), sock, self._deadline, self._max_bytes)
        answer.fp = io.BufferedReader(reader)
        self._answers.append(answer)
        return answer


class _BoundedReader(io.RawIOBase):
    """Gives each read only the time left, and all of them together `max_bytes`.

    A socket's own time-out starts anew with every byte. And some bytes cost time without adding to a body:
    endless trailers, interim answers, empty gzip blocks.
    """

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: Deadline, max_bytes: int) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = deadline
        self._left = max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._deadline.left())
        count = self._raw.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise failed("the server sent far more bytes than the image has")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
